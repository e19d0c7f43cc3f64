"""Sharing a model out to processes with DeepSpeed, as `model-config.yaml` says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import deepspeed


def create_checkpoints_json(model_path: str, checkpoints_json: str) -> None:
    """Writes the file that tells DeepSpeed where the weights are. All processes do so, and none finds half of it.

    Args:
        model_path: Folder of the weights.
        checkpoints_json: The file to write.
    """
    weights = sorted(str(file) for file in Path(model_path).rglob("*.bin") if file.is_file())
    written = Path(f"{checkpoints_json}.{os.getpid()}")
    written.write_text(json.dumps({"type": "ds_model", "checkpoints": weights, "version": 1.0}))
    written.replace(checkpoints_json)


def get_ds_engine(model: Any, ctx: Any) -> Any:
    """Has DeepSpeed share a model out.

    Args:
        model: The model.
        ctx: The handler's context: `handler: {model_path}` and `deepspeed: {config, checkpoint}` of its file count.

    Returns:
        DeepSpeed's engine; its `module` is this process's part.

    Raises:
        ValueError: The file says nothing of DeepSpeed, or names a configuration that is not there.
    """
    said = ctx.model_yaml_config.get("deepspeed")
    if said is None:
        raise ValueError(f"{ctx.model_name} has no deepspeed config in model config yaml file")
    folder, weights = Path(ctx.system_properties["model_dir"]), ctx.model_yaml_config["handler"]["model_path"]
    config = str(folder / said["config"]) if "config" in said else None
    if config is not None and not Path(config).exists():
        raise ValueError(f"{ctx.model_name} has no deepspeed config file {said['config']}")
    checkpoint = str(folder / said["checkpoint"]) if "checkpoint" in said else None
    if checkpoint is not None:
        create_checkpoints_json(weights, checkpoint)
    return deepspeed.init_inference(model, config=config, base_dir=weights, checkpoint=checkpoint)
