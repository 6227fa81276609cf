"""Against brute force: small random spaces, every layout of which SimPy plays with contention, and the planner on them.

    python benchmarks/search/brute_force.py               50 spaces
    python benchmarks/search/brute_force.py --spaces 5 --first 100

The planner has every rule of pruning on. The same: as many layouts fit, the best step time by the longest path, and the
best with contention, to 1e-9. Spaces of more layouts than `--most` are drawn again.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from parsim.errors import LayoutError
from parsim.search import search
from parsim.search.space import size_of
from parsim.spec import Search
from tests.search.brute import every_layout
from tests.search.conftest import small

_ALIKE = 1e-9


def spaces(count: int, first: int, most: int) -> list[tuple[int, Search]]:
    """Random spaces with their seeds, none empty, none of more layouts than `most`."""
    found, seed = list[tuple[int, Search]](), first
    while len(found) < count:
        one = small(seed, micro_batch_size=1, stages_per_rank={"most": 2})
        if 0 < size_of(one) <= most:
            found.append((seed, one))
        seed += 1
    return found


def compared(one: Search) -> tuple[int, str]:
    """Layouts that fit, and what differs; nothing where all is the same."""
    every = every_layout(one, contention=True)
    alone = every_layout(one)
    try:
        result = search(one, top=10, contention=10)
    except LayoutError as error:
        return len(every), "" if not every else str(error)
    differs = []
    if result.feasible != len(every):
        differs.append(f"{result.feasible} layouts fit, played {len(every)}")
    if not every:
        return 0, "; ".join(differs)
    best, contended = result.best, result.contended[0]
    least, shared = min(layout.step_s for layout in alone), min(layout.step_s for layout in every)
    if best is None or not result.certified or abs(best.step_s / least - 1) > _ALIKE:
        differs.append(f"best {best and best.step_s}, played {least}")
    if contended is None or contended.best is None:
        differs.append("nothing played with contention")
    elif abs((contended.step_s[contended.best] or 0.0) / shared - 1) > _ALIKE:
        certified = "certified" if contended.certified else "not certified"
        differs.append(f"with contention {contended.step_s[contended.best]} ({certified}), played {shared}")
    return len(every), "; ".join(differs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaces", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--most", type=int, default=150, help="layouts of a space at the most")
    options = parser.parse_args()
    same = layouts = 0
    started = time.process_time()
    for seed, one in spaces(options.spaces, options.first, options.most):
        count, differs = compared(one)
        same, layouts = same + (not differs), layouts + count
        print(f"{seed}: {size_of(one)} layouts, {count} fit: {differs or 'the same'}", flush=True)
    print(
        f"{same} of {options.spaces} the same; {layouts} layouts played, {time.process_time() - started:.0f} s of CPU"
    )
    sys.exit(same < options.spaces)


if __name__ == "__main__":
    main()
