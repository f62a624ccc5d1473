"""How long a camera node takes to be imported, and what it pulls in: no model runtime, no Kafka, no web server.

Each time is that of a process of its own; the median counts. Beside the import of `edge.role` stand what `vigil edge`
imports until it watches (the command line and the settings too), and an interpreter that imports nothing.

    python bench/imports.py [--starts N]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

ENTRY_S = 0.5
"""Target. Source: the design, targets of the edge."""
ENTRY = "import edge.role"
COMMAND = "import gc, console.cli; gc.set_threshold(20_000); import console.loading, console.joined, edge.role"
"""With the garbage collector as the command sets it."""
FORBIDDEN = frozenset({
    "PIL", "ai_edge_litert", "amqtt", "bridge", "confluent_kafka", "cryptography", "cv2", "detector",
    "fastapi", "fleet", "gi", "onnxruntime", "obstore", "rich", "starlette", "tflite_runtime", "uvicorn", "websockets",
})  # fmt: skip
"""Model runtimes, Kafka, the web, brokers; and what is loaded only when a camera or a clip needs it."""
OWN = frozenset({"config", "broker", "edge", "console"})

MEASURE = """
import time
started_s, started_cpu_s = time.perf_counter(), time.process_time()
{code}
took_s, cpu_s = time.perf_counter() - started_s, time.process_time() - started_cpu_s
import json, resource, sys
packages = sorted({{name.partition(".")[0] for name in sys.modules}} - set(sys.stdlib_module_names) - {{"__main__"}})
size_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({{"took_s": took_s, "cpu_s": cpu_s, "packages": packages, "modules": len(sys.modules),
                  "size_kib": size_kib}}))
"""


@dataclass(frozen=True)
class Start:
    """One process that imported something.

    Attributes:
        took_s: the import,
        cpu_s: and the processor's time of it, which counts on a machine that is busy with other things.
        whole_s: the process, from its start to its end.
        packages: top-level names that were loaded and are not of the standard library.
        modules: how many modules were loaded.
        size_mb: the most memory that was resident.
    """

    took_s: float
    cpu_s: float
    whole_s: float
    packages: tuple[str, ...]
    modules: int
    size_mb: float


def start(code: str) -> Start:
    """Run this in a process of its own."""
    started_s = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", MEASURE.format(code=code)], capture_output=True, text=True, check=True)
    whole_s = time.perf_counter() - started_s
    said = json.loads(done.stdout)
    return Start(
        said["took_s"], said["cpu_s"], whole_s, tuple(said["packages"]), said["modules"], said["size_kib"] / 1024
    )


def measure(what: str, code: str, starts: int, nothing: frozenset[str] = frozenset()) -> tuple[float, Start]:
    """Print the medians of one kind of start; the import's, and the last start."""
    start(code)  # writes the byte code, where there is none yet
    runs = [start(code) for _ in range(starts)]
    took_s = statistics.median(run.took_s for run in runs)
    whole_s = statistics.median(run.whole_s for run in runs)
    last = runs[-1]
    foreign = ", ".join(name for name in last.packages if name not in OWN | nothing and not name.startswith("_"))
    cpu_s = statistics.median(run.cpu_s for run in runs)
    print(f"{what:<12} {took_s * 1e3:4.0f} ms, {cpu_s * 1e3:4.0f} ms of CPU (whole process {whole_s * 1e3:4.0f} ms), "
          f"{last.modules} modules, {last.size_mb:.0f} MB; "
          f"{foreign or 'nothing foreign'}")  # fmt: skip
    return took_s, last


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=15)
    starts = parser.parse_args().starts
    _, bare = measure("nothing", "pass", starts)
    nothing = frozenset(bare.packages)
    took_s, entry = measure("edge.role", ENTRY, starts, nothing)
    _, command = measure("vigil edge", COMMAND, starts, nothing)
    too_much = sorted(FORBIDDEN & {*entry.packages, *command.packages})
    print(
        f"import of edge.role {took_s:.2f} s, forbidden packages {', '.join(too_much) or 'none'} "
        f"(target: at most {ENTRY_S} s, none)"
    )
    return 0 if took_s <= ENTRY_S and not too_much else 1


if __name__ == "__main__":
    raise SystemExit(main())
