"""What the first of several processes refuses, all refuse: real processes, on gloo and the CPU, without a launcher that
would end the others."""

import os
import socket
import subprocess
import sys


def run_both(*arguments):
    """Exit code and stderr of ``puma`` with these arguments in two processes of one group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
    group |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "puma.cli", *map(str, arguments)],
            env=os.environ | group | {"RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        said = [process.communicate(timeout=240)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, err) for process, err in zip(started, said, strict=True)]


def test_a_table_that_the_first_process_refuses_is_refused_by_all(tmp_path):
    (tmp_path / "pairs.csv").write_text("query_text,positive_text\n" + "only a query,\n" * 5)
    arguments = ("train", "mini", "--data", tmp_path / "pairs.csv", "--out", tmp_path / "model")
    first, second = run_both(*arguments)
    assert first[0] == second[0] == 2
    refusal = first[1].splitlines()[-1]
    assert refusal.startswith(f"error: {tmp_path / 'pairs.csv'}: ")
    assert second[1].splitlines()[-1] == refusal
    assert not (tmp_path / "model.work").exists()
