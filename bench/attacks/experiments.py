"""The experiments of the tables: every pipeline under every attack in every setting, over worker processes."""

import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from functools import cache

from bench.attacks.attacks import BY_NAME, NONE
from bench.attacks.data import ImageData, load_images
from bench.attacks.pipelines import BY_NAME as PIPELINES
from bench.attacks.report import Result
from bench.attacks.run import Federation, run

SETTINGS = {
    f"{name}, f = {attackers}": Federation(attackers=attackers, alpha=alpha)
    for attackers in (4, 6)
    for name, alpha in (("near-iid", 0.5), ("non-iid", 0.1))
}
Job = tuple[str, str, str, int]
"""Setting, pipeline, attack, seed."""


def jobs_of(settings: Sequence[str], pipelines: Sequence[str], attacks: Sequence[str], seeds: int) -> list[Job]:
    """Return what is to be run, attack-free runs included; what the enclave's policy refuses is left out and said."""
    jobs: list[Job] = []
    for setting in settings:
        for name in pipelines:
            if PIPELINES[name].refused(SETTINGS[setting]):
                sys.stderr.write(f"{setting}: the enclave refuses {name}: it cannot stand so many attackers.\n")
                continue
            jobs += [(setting, name, attack, seed) for attack in (NONE.name, *attacks) for seed in range(seeds)]
    return jobs


def run_all(jobs: Sequence[Job], processes: int) -> Iterator[Result]:
    """Yield the results in the order of the jobs and say how far it is."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for number, result in enumerate(pool.imap(_run_one, jobs, chunksize=4), 1):
            sys.stderr.write(f"\r{number} of {len(jobs)} {result.setting}: {result.pipeline[:50]:50}")
            sys.stderr.flush()
            yield result
    sys.stderr.write("\n")


def _run_one(job: Job) -> Result:
    setting, name, attack, seed = job
    federation, pipeline = SETTINGS[setting], PIPELINES[name]
    outcome = run(_data(), federation, BY_NAME[attack], pipeline.aggregate(federation), seed, beta=pipeline.history)
    return Result(setting, name, attack, seed, outcome.accuracy, outcome.backdoor)


@cache
def _data() -> ImageData:
    return load_images()
