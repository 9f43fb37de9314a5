"""libFuzzer's flags on the command line of a harness: each is supported or refused, none is ignored."""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from hvfuzz.engines.engine import EngineError

U32: Final = (1 << 32) - 1
SECONDS_MAX: Final = 1_000_000_000

SUPPORTED: Final = {
    "verbosity": U32, "seed": U32, "runs": (1 << 31) - 1, "max_total_time": SECONDS_MAX, "help": 1,
    "len_control": U32, "keep_seed": 1, "cross_over": 1, "cross_over_uniform_dist": 1, "mutate_depth": U32,
    "reduce_depth": 1, "shuffle": 1, "prefer_small": 1, "use_counters": 1, "use_memmem": 1, "use_value_profile": 1,
    "use_cmp": 1, "shrink": 1, "reduce_inputs": 1, "reload": U32, "report_slow_units": U32, "print_final_stats": 1,
    "print_corpus_stats": 1, "entropic": 1, "entropic_feature_frequency_threshold": U32,
    "entropic_number_of_rarest_features": U32, "entropic_scale_per_exec_time": 1,
}  # fmt: skip
"""Flags with a number, and the greatest. `seed`, `runs`, `max_total_time` and `help` are done here."""
OWN: Final = frozenset({"seed", "runs", "max_total_time", "help"})
_RERUN: Final = "use: hvfuzz fuzz --workers"
_OURS: Final = "hvfuzz saves findings below HVFUZZ_OUT"
_PYTHON: Final = "it has no effect on a target in Python"
_SIGNALS: Final = "hvfuzz handles the signals"
REFUSED: Final = {
    "merge": "use: hvfuzz corpus prune", "set_cover_merge": "use: hvfuzz corpus prune",
    "merge_control_file": "use: hvfuzz corpus prune",
    "minimize_crash": "use: hvfuzz minimise", "cleanse_crash": "use: hvfuzz minimise",
    "fork": _RERUN, "fork_corpus_groups": _RERUN, "jobs": _RERUN, "workers": _RERUN,
    "ignore_timeouts": _RERUN, "ignore_ooms": _RERUN, "ignore_crashes": _RERUN,
    "artifact_prefix": _OURS, "exact_artifact_path": _OURS, "create_missing_dirs": _OURS,
    "error_exitcode": "the exit status is that of the findings",
    "timeout_exitcode": "the exit status is that of the findings",
    "timeout": "an op that does not end is a finding after 2 s of processor time",
    "stop_file": "send SIGTERM", "max_len": "the bounds of programs give it",
    "seed_inputs": "name the files or their folder",
    "dict": "hvfuzz makes the dictionary from the declarations", "analyze_dict": "hvfuzz makes the dictionary",
    "only_ascii": "units are bytes", "mutation_graph_file": "hvfuzz mutates ops",
    "rss_limit_mb": "use: ulimit -v", "malloc_limit_mb": "use: ulimit -v", "detect_leaks": _PYTHON,
    "purge_allocator_interval": _PYTHON, "trace_malloc": _PYTHON, "print_pcs": _PYTHON, "print_funcs": _PYTHON,
    "print_coverage": _PYTHON, "print_full_coverage": _PYTHON, "dump_coverage": _PYTHON,
    "use_clang_coverage": _PYTHON, "data_flow_trace": _PYTHON, "collect_data_flow": _PYTHON,
    "focus_function": _PYTHON, "exit_on_src_pos": _PYTHON, "exit_on_item": "use: -runs",
    "close_fd_mask": "redirect the output", "ignore_remaining_args": "hvfuzz reads the arguments itself",
    **{f"handle_{name}": _SIGNALS for name in
       ("segv", "bus", "abrt", "ill", "fpe", "int", "term", "xfsz", "usr1", "usr2", "winexcept")},
}  # fmt: skip
"""Flags that cannot work here -> what to do instead, or why."""
_FLAG: Final = re.compile(r"-([a-z0-9_]+)=(.*)", re.DOTALL)


class HarnessFlags(NamedTuple):
    """The flags of one command line."""

    help: bool
    seed: int
    runs: int | None
    """None: no limit. 0: run the seeds only, as in libFuzzer."""
    seconds: int | None
    passed_on: tuple[str, ...]
    """Flags for libFuzzer itself."""


def parse_flags(arguments: Sequence[str]) -> HarnessFlags:
    """Read the `arguments` that begin with a dash; an unknown, refused or malformed one raises `EngineError`."""
    own: dict[str, int] = {}
    passed_on = []
    wants_help = False
    for argument in arguments:
        if argument in ("-h", "-help", "--help"):
            wants_help = True
            continue
        match = _FLAG.fullmatch(argument)
        if match is None:
            raise EngineError(f"{argument[:80]}: not a flag; flags have the form -name=value, see -help=1")
        name, value = match[1], match[2]
        if name in REFUSED:
            raise EngineError(f"-{name} is not supported; {REFUSED[name]}")
        if name not in SUPPORTED:
            raise EngineError(f"-{name[:80]}: no such flag; see -help=1")
        number = _number(name, value)
        if name in OWN:
            own[name] = number
        else:
            passed_on.append(f"-{name}={number}")
    runs, seconds = own.get("runs", -1), own.get("max_total_time", 0)
    return HarnessFlags(
        wants_help or bool(own.get("help")),
        own.get("seed", 0),
        None if runs < 0 else runs,
        seconds if seconds > 0 else None,
        tuple(passed_on),
    )


def _number(name: str, value: str) -> int:
    """The value of a flag, which is a decimal number."""
    greatest = SUPPORTED[name]
    if name == "runs" and value == "-1":
        return -1
    if not re.fullmatch(r"[0-9]{1,10}", value) or int(value) > greatest:
        raise EngineError(f"-{name}={value[:40]}: expected a number from 0 to {greatest}")
    return int(value)


def flags_help() -> str:
    """The text of -help=1."""
    lines = ["Flags of libFuzzer that are supported, each as -name=number:"]
    lines += [f"  -{name}" for name in SUPPORTED]
    lines.append("Not supported:")
    lines += [f"  -{name:36} {reason}" for name, reason in REFUSED.items()]
    return "\n".join(lines)
