"""What the long acceptance rows share: the command as its users call it."""

import json
import subprocess
import sys
from pathlib import Path

BURNISH = str(Path(sys.executable).with_name("burnish"))


def burnish(*arguments):
    """Run the command with --json, and return what it printed."""
    done = subprocess.run([BURNISH, *map(str, arguments), "--json"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
