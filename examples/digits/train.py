"""Train the two models of the digits workflow and write every data file of this folder.

    pip install '.[train]'
    python examples/digits/train.py

The same versions of the libraries on the same kind of processor give the same models again.
"""

import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from demo import encode_png
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from torch import nn

HERE = Path(__file__).resolve().parent
SEED = 7
EPOCHS = 40
SCALE = 8  # the PNG files show each pixel as a square of 8x8, so that a person can see them

Array = NDArray[Any]


def as_bytes(images: Array) -> Array:
    """Scale the data set's 0..16 to the 0..255 of a grey PNG."""
    return np.round(images * 255 / 16).astype(np.uint8)


def as_input(images: Array) -> Array:
    """Scale bytes to what the models take, as `steps.decode` does: float32 [N, 1, 8, 8] between 0 and 1."""
    return (images / np.float32(255)).astype(np.float32).reshape(-1, 1, 8, 8)


# --- The convolutional net ---


def build_cnn() -> nn.Sequential:
    """Two convolutions and two linear layers; the output is logits."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.4),
        nn.Linear(32 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def train_cnn(images: Array, labels: Array) -> nn.Module:
    """Train the net and put a softmax behind it."""
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    net = build_cnn()
    inputs, targets = torch.from_numpy(images), torch.from_numpy(labels)
    steps = -(-len(inputs) // 64)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, epochs=EPOCHS, steps_per_epoch=steps)
    loss_of = nn.CrossEntropyLoss()
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(inputs)).split(64):
            optimizer.zero_grad()
            loss_of(net(inputs[batch]), targets[batch]).backward()
            optimizer.step()
            schedule.step()
    return nn.Sequential(net, nn.Softmax(dim=1)).eval()


def save_cnn(model: nn.Module, target: Path) -> None:
    """Write the model as TorchScript, without the source lines that torch puts in and the hash it makes over them."""
    traced = torch.jit.trace(model, torch.zeros(2, 1, 8, 8))
    with tempfile.TemporaryDirectory() as folder:
        full = Path(folder, target.name)
        torch.jit.save(traced, full)
        with zipfile.ZipFile(full) as source, zipfile.ZipFile(target, "w") as stripped:
            for entry in source.infolist():
                if not entry.filename.endswith((".debug_pkl", "/serialization_id")):
                    stripped.writestr(zipfile.ZipInfo(entry.filename), source.read(entry))


# --- The multilayer perceptron ---


def train_mlp(images: Array, labels: Array) -> MLPClassifier:
    """Train a perceptron with one hidden layer on the pixels as a flat vector."""
    model = MLPClassifier((64,), alpha=0.05, batch_size=64, max_iter=60, learning_rate_init=3e-3, tol=0, random_state=SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it stops after max_iter, which is what is wanted
        return model.fit(images.reshape(len(images), -1), labels)


def save_mlp(model: MLPClassifier, target: Path) -> None:
    """Write the model as an ONNX graph: Flatten, then Gemm and Relu per layer, then Softmax."""
    nodes = [helper.make_node("Flatten", ["image"], ["flat"])]
    weights = []
    value = "flat"
    for index, (weight, bias) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        parts = {f"weight{index}": weight, f"bias{index}": bias}
        weights += [numpy_helper.from_array(array.astype(np.float32), name) for name, array in parts.items()]
        nodes.append(helper.make_node("Gemm", [value, *parts], [f"sum{index}"]))
        value = f"sum{index}"
        if index < len(model.coefs_) - 1:
            nodes.append(helper.make_node("Relu", [value], [f"hidden{index}"]))
            value = f"hidden{index}"
    nodes.append(helper.make_node("Softmax", [value], ["probabilities"], axis=1))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 8, 8])
    probabilities = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 10])
    graph = helper.make_graph(nodes, "mlp", [image], [probabilities], weights)
    written = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)], producer_name="digits")
    onnx.checker.check_model(written, full_check=True)
    target.write_bytes(written.SerializeToString(deterministic=True))


# --- The held-out part ---


def chosen(labels: Array, cnn: Array, mlp: Array) -> list[int]:
    """Pick one held-out image per digit that the ensemble gets right, one only one model gets right where there is one."""
    right = (cnn + mlp).argmax(1) == labels
    split = right & (cnn.argmax(1) != mlp.argmax(1))
    return [int(np.flatnonzero(right & (labels == digit))[np.argmax(split[right & (labels == digit)])]) for digit in range(10)]


def save_images(images: Array) -> None:
    """Write the images of the digits 0 to 9 as `images/0.png` and so on."""
    folder = HERE / "images"
    folder.mkdir(exist_ok=True)
    for digit, image in enumerate(images):
        pixels = image.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
        (folder / f"{digit}.png").write_bytes(encode_png(pixels.tobytes(), pixels.shape[1]))


def main() -> None:
    """Train, write, and print the accuracies on the held-out images."""
    data = load_digits()
    parts = train_test_split(as_bytes(data.images), data.target, test_size=0.25, stratify=data.target, random_state=SEED)
    train_images, images, train_labels, labels = parts
    cnn_model = train_cnn(as_input(train_images), train_labels)
    mlp_model = train_mlp(as_input(train_images), train_labels)
    save_cnn(cnn_model, HERE / "cnn.pt")
    save_mlp(mlp_model, HERE / "mlp.onnx")
    np.savez_compressed(HERE / "heldout.npz", images=images, labels=labels.astype(np.uint8))

    with torch.inference_mode():
        cnn = cnn_model(torch.from_numpy(as_input(images))).numpy()
    mlp = mlp_model.predict_proba(as_input(images).reshape(len(images), -1))
    picks = chosen(labels, cnn, mlp)
    save_images(images[picks])
    print(f"{len(train_images)} images to train on, {len(images)} held out; accuracy on the held-out images:")
    for name, scores in (("cnn", cnn), ("mlp", mlp), ("ensemble", (cnn + mlp) / 2)):
        print(f"{name:9}{(scores.argmax(1) == labels).mean():.4f}")
    for digit, pick in enumerate(picks):
        if cnn[pick].argmax() != mlp[pick].argmax():
            print(f"images/{digit}.png: the cnn says {cnn[pick].argmax()}, the mlp {mlp[pick].argmax()}, the ensemble {digit}")


if __name__ == "__main__":
    main()
