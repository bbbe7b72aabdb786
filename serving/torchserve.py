"""Start one TorchServe server: its configuration, its ports and its command line.

Its folder also holds config.properties, logs/ and workflows/ (empty, read-only). Java is started directly, not through
the command `torchserve`: that allows one server per machine and adds "." to the class path of Java.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Any

from hire_model.files import make_scratch, write_text
from serving.process import QUEUE, Deployment, ServeError, Server, copy_archive, find_free_ports, launch

CONFIG = Path(__file__).parent / "config"
PROPERTIES = "config.properties"
JAVA_LINE = (
    "sudo apt-get install -y openjdk-17-jre-headless   (or: conda install -c conda-forge openjdk=17). Without Java: "
    "hire serve --server gunicorn"
)
_JAVA = ("-Xms64m", "-Xmx1g", "-XX:MaxDirectMemorySize=1g", "-XX:+ExitOnOutOfMemoryError")
_PORTS = ("inference_port", "management_port", "metrics_port", "grpc_inference_port", "grpc_management_port")


def start(deployment: Deployment, folder: Path) -> Server:
    """Start the server of `deployment` in the empty folder `folder`, and return before it answers. Raises HireError."""
    java = find_java()
    copy_archive(deployment, folder)
    (folder / "workflows").mkdir(mode=0o555)
    ports = dict(zip(_PORTS, find_free_ports(len(_PORTS)), strict=True))
    values = {
        "store": folder.resolve() / "store", "workflows": folder.resolve() / "workflows",
        "version": deployment.version, "workers": deployment.workers, "queue": QUEUE * deployment.workers,
        "metrics": CONFIG / "metrics.yaml", **ports,
    }  # fmt: skip
    write_text(Template((CONFIG / PROPERTIES).read_text("utf-8")).substitute(values), folder / PROPERTIES)
    scratch = make_scratch("hire-serve-")
    public: dict[str, Any] = {name: ports[name] for name in _PORTS[:3]}
    return launch(_build_command(java, folder, scratch[0]), deployment, folder, scratch, **public)


def _build_command(java: str, folder: Path, scratch: Path) -> list[str]:
    home = _find_torchserve()
    return [
        java, *_JAVA, f"-Dmodel_server_home={home.parent}", f"-Djava.io.tmpdir={scratch}",
        f"-Dlog4j.configurationFile=file://{CONFIG / 'log4j2.xml'}", "-cp", str(home / "frontend" / "*"),
        "org.pytorch.serve.ModelServer", "--python", sys.executable, "-f", str((folder / PROPERTIES).resolve()),
        "-s", str((folder / "store").resolve()), "-w", str((folder / "workflows").resolve()), "-ncs",
    ]  # fmt: skip


def _find_torchserve() -> Path:
    """Locate the folder of the package `ts` without importing it."""
    spec = find_spec("ts")
    if spec is None or not spec.origin or not (Path(spec.origin).parent / "frontend").is_dir():
        raise ServeError("TorchServe is not installed: pip install 'hire-model[serving]'.")
    return Path(spec.origin).parent


def find_java() -> str:
    """Locate Java 11 or newer through JAVA_HOME or PATH. Raises ServeError with the command that installs Java."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else shutil.which("java")
    try:
        done = subprocess.run([java or "java", "-version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        problem = f"JAVA_HOME={home} has no working bin/java" if home else "java is not on the PATH"
        raise ServeError(f"TorchServe needs Java 17, but {problem}. Install it: {JAVA_LINE}") from error
    number = re.search(r'version "(\d+)', done.stderr)
    if number is None or int(number[1]) < 11:
        found = done.stderr.splitlines()[0]
        raise ServeError(f"TorchServe needs Java 17, but {java} is {found}. Install it: {JAVA_LINE}")
    return str(java)
