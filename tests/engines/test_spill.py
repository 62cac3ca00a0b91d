"""What a killed session spilled is removed by the next one; what another one uses is not."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from extensions.engines.spill import spill_folder

_HOLD = """
import sys
from pathlib import Path
from extensions.engines.spill import spill_folder
with spill_folder(Path(sys.argv[1])) as folder:
    (folder / "spilled").write_bytes(bytes(1000))
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_its_session_s_alone(tmp_path: Path) -> None:
    with spill_folder(tmp_path / "made") as first, spill_folder(tmp_path / "made") as second:
        assert first != second
        assert first.is_dir()
        assert second.is_dir()
    assert list((tmp_path / "made").iterdir()) == []


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        held = Path(process.stdout.readline().strip())
        with spill_folder(tmp_path):
            assert (held / "spilled").exists()
        os.kill(process.pid, signal.SIGKILL)
    assert held.exists()
    with spill_folder(tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]
