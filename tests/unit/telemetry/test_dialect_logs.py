"""What TorchServe and MMS write into their log files."""

from __future__ import annotations

import re

import pytest

from flowyard.platform.settings import Settings
from flowyard.platform.telemetry.dialect_logs import dialect_logs
from flowyard.platform.telemetry.logs import Logs, render_json
from flowyard.platform.workers.watchers import WorkerName
from flowyard.schemas.errors import InvalidRequestError

WORKER = WorkerName(1, "noop", "", "torchserve")
PART = WorkerName(2, "flow:m1", "3")
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3} ")


class Writer:
    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def write(self, lines: bytes) -> None:
        self.lines.append(lines)


def files_of(tmp_path, *dialects: str, **settings):
    said = Settings(dialects=dialects, log_location=str(tmp_path / "logs"), **settings)
    return dialect_logs(said, Logs(Writer(), render_json))


def lines(path) -> list[str]:
    told = path.read_text().splitlines()
    assert all(STAMP.match(line) for line in told), told
    return [STAMP.sub("", line) for line in told]


@pytest.fixture
def torchserve(tmp_path):
    return files_of(tmp_path, "torchserve", metrics_location=str(tmp_path / "metrics"))


def test_the_access_log(tmp_path, torchserve):
    torchserve.access(("127.0.0.1", 64003), "POST", "/predictions/x", "HTTP/1.1", 200, 0.118)
    torchserve.access(("::1", 1), "GET", "/models?limit=3", "HTTP/1.0", 404, 0.0004)
    torchserve.access(None, "GET", "/ping", "HTTP/1.1", 499, 0.0)
    torchserve.close()
    told = [
        '/127.0.0.1:64003 "POST /predictions/x HTTP/1.1" 200 118',
        '/0:0:0:0:0:0:0:1:1 "GET /models?limit=3 HTTP/1.0" 404 0',
        '0.0.0.0 "GET /ping HTTP/1.1" 499 0',
    ]
    assert lines(tmp_path / "logs" / "access_log.log") == [f"- {line}" for line in told]
    assert lines(tmp_path / "logs" / "ts_log.log") == [f"[INFO ] event-loop ACCESS_LOG - {line}" for line in told]


@pytest.mark.parametrize(
    "query",
    [
        "url=https%3A%2F%2Fx%2Fa.mar%3FX-Amz-Signature%3Dabc",
        "url=https%3A%2F%2Fx%2Fa.mar%3Fa%3Db%26AWSAccessKeyId%3Dabc",
        "url=https://x/a.mar?sig=abc",
        "API_KEY=abc",
        "a=b&token=abc",
        "Key-Pair-Id=abc",
    ],
)
def test_secrets_of_a_query_are_not_logged(tmp_path, torchserve, query):
    torchserve.access(("127.0.0.1", 1), "POST", f"/models?{query}", "HTTP/1.1", 200, 0.1)
    torchserve.close()
    assert lines(tmp_path / "logs" / "access_log.log") == ['- /127.0.0.1:1 "POST /models?... HTTP/1.1" 200 100']


@pytest.mark.parametrize("query", ["design=1&s3_sse_kms=true", "model_name=token&url=key.mar", "limit=2&next_page_token=2"])
def test_other_queries_are(tmp_path, torchserve, query):
    torchserve.access(("127.0.0.1", 1), "GET", f"/models?{query}", "HTTP/1.1", 200, 0.1)
    torchserve.close()
    assert lines(tmp_path / "logs" / "access_log.log") == [f'- /127.0.0.1:1 "GET /models?{query} HTTP/1.1" 200 100']


def test_metrics(tmp_path, torchserve):
    torchserve.server_metric("Requests2XX.Count:1.0|#Level:Host|#hostname:h,timestamp:1")
    torchserve.model_metric("HandlerTime.ms:1.0|#|#hostname:h,requestID:r,timestamp:1")
    torchserve.close()
    server = "Requests2XX.Count:1.0|#Level:Host|#hostname:h,timestamp:1"
    assert lines(tmp_path / "metrics" / "ts_metrics.log") == [f"- {server}"]
    assert lines(tmp_path / "metrics" / "model_metrics.log") == ["- HandlerTime.ms:1.0|#|#hostname:h,requestID:r,timestamp:1"]
    assert lines(tmp_path / "logs" / "ts_log.log")[0] == f"[INFO ] event-loop TS_METRICS - {server}"


def test_the_life_of_a_worker(tmp_path, torchserve):
    torchserve.worker_started(WORKER)
    torchserve.worker_ready(WORKER, 1.5)
    torchserve.worker_ended(PART, "exit status 0", was_ready=False, meant=True)
    torchserve.close()
    logger = "org.pytorch.serve.wlm.WorkerThread"
    assert lines(tmp_path / "logs" / "ts_log.log") == [
        f"[DEBUG] W-9000-noop_1.0 {logger} - W-9000-noop_1.0 State change null -> WORKER_STARTED",
        "[INFO ] W-9000-noop_1.0-stdout MODEL_LOG - Torch worker started.",
        f"[DEBUG] W-9000-noop_1.0 {logger} - W-9000-noop_1.0 State change WORKER_STARTED -> WORKER_MODEL_LOADED",
        f"[INFO ] W-9001-flow__m1_3 {logger} - 9001 Worker disconnected. WORKER_STARTED",
        f"[DEBUG] W-9001-flow__m1_3 {logger} - W-9001-flow__m1_3 State change WORKER_STARTED -> WORKER_SCALED_DOWN",
    ]


def test_the_death_of_a_worker(tmp_path, torchserve):
    others = [WorkerName(number, "noop", "", "torchserve") for number in (2, 3, 4)]
    torchserve.worker_ended(WORKER, "killed by SIGKILL", was_ready=True, meant=False)
    torchserve.worker_started(others[0])
    torchserve.worker_ended(others[0], "exit status 3", was_ready=False, meant=False)
    torchserve.worker_started(others[1])
    torchserve.worker_ready(others[1], 1.0)
    torchserve.worker_started(others[2])
    torchserve.close()
    told = [
        re.sub(r"timestamp: \d+", "timestamp: T", line.partition(" - ")[2]) for line in lines(tmp_path / "logs" / "ts_log.log")
    ]
    died = "Backend worker monitoring thread interrupted or backend worker process died."
    assert told == [
        "9000 Worker disconnected. WORKER_MODEL_LOADED",
        f"{died} (killed by SIGKILL)",
        "W-9000-noop_1.0 State change WORKER_MODEL_LOADED -> WORKER_STOPPED",
        "Auto recovery start timestamp: T",
        "Retry worker: 9001 in 0 seconds.",
        "W-9001-noop_1.0 State change null -> WORKER_STARTED",
        "9001 Worker disconnected. WORKER_STARTED",
        f"{died} (exit status 3)",
        "W-9001-noop_1.0 State change WORKER_STARTED -> WORKER_STOPPED",
        "Auto recovery failed again",
        "Retry worker: 9002 in 0 seconds.",
        "W-9002-noop_1.0 State change null -> WORKER_STARTED",
        "Torch worker started.",
        "W-9002-noop_1.0 State change WORKER_STARTED -> WORKER_MODEL_LOADED",
        "Auto recovery succeeded, reset recoveryStartTS",
        "W-9003-noop_1.0 State change null -> WORKER_STARTED",
    ]


def test_what_workers_print(tmp_path, torchserve):
    torchserve.printed(WORKER, "stdout", b"hello")
    torchserve.printed(WORKER, "stderr", "\u00e4\ud83d".encode("utf-8", "surrogatepass"))
    torchserve.printed(WORKER, "stdout", b"[METRICS]A.Count:1|#|#hostname:h,1")
    torchserve.close()
    assert lines(tmp_path / "logs" / "model_log.log") == [
        "[INFO ] W-9000-noop_1.0-stdout MODEL_LOG - hello",
        "[WARN ] W-9000-noop_1.0-stderr MODEL_LOG - \u00e4\\xed\\xa0\\xbd",
    ]
    assert torchserve._logs.writer.lines[0] == b"hello\n"
    assert len(torchserve._logs.writer.lines) == 3


def test_what_the_server_logs(tmp_path, torchserve):
    torchserve.event({"event": "registered", "name": "noop", "level": "warning", "timestamp": "now"})
    torchserve.event({"event": "failed", "level": "error", "exception": "Traceback\n  ValueError"})
    torchserve.close()
    told = (tmp_path / "logs" / "ts_log.log").read_text()
    assert "[WARN ] main flowyard - registered name=noop\n" in told
    assert "[ERROR] main flowyard - failed\nTraceback\n  ValueError\n" in told


def test_those_of_mms(tmp_path):
    files = files_of(tmp_path, "mms", "torchserve")
    files.worker_ready(WORKER, 1.0)
    files.server_metric("x")
    files.close()
    folder = tmp_path / "logs"
    names = ["access_log.log", "mms_log.log", "mms_metrics.log", "model_log.log", "model_metrics.log"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert lines(folder / "model_log.log") == [
        "[INFO ] W-9000-noop-stdout com.amazonaws.ml.mms.wlm.WorkerLifeCycle - MMS worker started."
    ]
    assert "MMS_METRICS - x" in (folder / "mms_log.log").read_text()


def test_there_are_none_unless_they_are_asked_for_where_a_dialect_is_served(tmp_path):
    logs = Logs(Writer(), render_json)
    assert dialect_logs(Settings(dialects=("torchserve",)), logs) is None
    assert dialect_logs(Settings(log_location=str(tmp_path / "logs")), logs) is None
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("setting", ["log_location", "metrics_location"])
def test_a_place_where_no_files_can_be_written(tmp_path, setting):
    (tmp_path / "file").write_text("")
    said = Settings(dialects=("mms",), **({"log_location": str(tmp_path)} | {setting: str(tmp_path / "file")}))
    with pytest.raises(InvalidRequestError, match=f"{setting} .*: no files can be written there"):
        dialect_logs(said, Logs(Writer(), render_json))
