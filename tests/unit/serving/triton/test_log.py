from pathlib import Path

import pytest

from serving.triton.log import failure_reason, last_messages, open_log, read_log

LOADED = """I1123 11:15:57 5686 model_lifecycle.cc:839] "successfully loaded 'measure'"
+---------+--------+
| measure | READY  |
+---------+--------+
"""

TRACEBACK = (
    "I1123 11:16:29 5977 pb_stub.cc:298]  Failed to initialize Python stub for auto-complete: "
    "RuntimeError: corrupt ONNX\n\nAt:\n  model.py(1): <module>\n"
    "E1123 11:16:29 5965 model_lifecycle.cc:642] \"failed to load 'a' version 1: Internal: "
    'RuntimeError: corrupt ONNX\\n\\nAt:\\n  model.py(1): <module>\\n"\n'
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (TRACEBACK, "model 'a' version 1 failed to load: RuntimeError: corrupt ONNX"),
        (
            TRACEBACK + TRACEBACK.replace("'a'", "'b'"),
            "model 'a' version 1 failed to load: RuntimeError: corrupt ONNX; "
            "model 'b' version 1 failed to load: RuntimeError: corrupt ONNX",
        ),
        (
            'E1123 main.cc:245] "failed to start GRPC service: Unavailable - Socket '
            "'127.0.0.1:34601' already in use \"\n",
            "the GRPC service failed to start: Socket '127.0.0.1:34601' already in use",
        ),
        (
            "tritonserver: error while loading shared libraries: libb64.so: cannot open\n",
            "a library is missing: libb64.so: cannot open",
        ),
        (
            "error: creating server: Internal - failed to load all models\n",
            "creating server: Internal - failed to load all models",
        ),
        (LOADED, None),
    ],
)
def test_the_reason_is_what_triton_says_without_traceback(text: str, reason: str | None) -> None:
    assert failure_reason(text) == reason


def test_the_last_messages_leave_out_tables() -> None:
    assert last_messages(LOADED + "\nbye\n", 2) == [LOADED.splitlines()[0], "bye"]


def test_the_log_before_is_kept_beside_a_fresh_one(tmp_path: Path) -> None:
    path = tmp_path / "run/triton.log"
    for text in (b"first\n", b"second\n"):
        with open_log(path) as log:
            log.write(text)
    assert path.read_text() == "second\n"
    assert path.with_name("triton.log.1").read_text() == "first\n"


def test_two_launches_with_one_log_path_do_not_mix(tmp_path: Path) -> None:
    with open_log(tmp_path / "triton.log") as one, open_log(tmp_path / "triton.log") as two:
        one.write(b"one\n")
        two.write(b"two\n")
        assert read_log(one.fileno()) == "one\n"
        assert read_log(two.fileno()) == "two\n"
