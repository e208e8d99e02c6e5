"""Freed memory stays with the process until it is returned, as the kernel counts it."""

import json
import subprocess
import sys
from textwrap import dedent

import pytest

# In a process of its own, since what it tells the allocator holds for the whole process.
CHILD = dedent(
    """
    import json

    import numpy as np

    from jaxperturb.engine.allocator import keep_pages, return_pages

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    if not keep_pages():
        raise SystemExit("another allocator")
    before = resident()
    arrays = [np.ones(10**6) for _ in range(20)]
    above = np.ones(1000)  # holds the heap's end
    full = resident()
    del arrays
    kept = resident()
    returned = return_pages()
    print(json.dumps([full - before, kept - before, returned, resident() - before]))
    """
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is that of Linux")
def test_freed_memory_is_kept_until_it_is_returned():
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=False)
    if "another allocator" in done.stderr:
        pytest.skip("the allocator is not glibc's")
    full, kept, returned, left = json.loads(done.stdout)
    assert returned
    assert min(full, kept) >= 150e6
    assert left <= 20e6
