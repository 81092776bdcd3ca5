"""A case: what fails, and what goes on meanwhile. Which there are. Runs in tests."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from tests.fault.control import ALWAYS, Rule
from tests.fault.sites import AT_START, BY_GUARDIAN, SITES, WITH_OTHERS, name_of
from tests.relay.harness import Family

# Which sides and how many pipes reach a site; elsewhere it is not called.
UNIX_ONLY = frozenset({"recvmmsg", "recvmmsg_peek", "recvmmsg_drop", "sendmmsg"})
TCP_ONLY = frozenset({"recv", "recv_peek", "recv_drop", "send", "setsockopt_nodelay"})
WITHOUT_PIPES = frozenset({"recv_peek", "recv_drop", "recvmmsg_peek", "recvmmsg_drop"})
WITH_PIPES = frozenset({"splice_in", "splice_out", "write", "pipe2", "fcntl_size"})


@dataclass(frozen=True, slots=True)
class Case:
    """deaths: how often the worker is killed in the middle, with the faults on."""

    rules: tuple[Rule, ...]
    client: Family = "v4"
    server: Family = "v4"
    pipes: int = 64
    deaths: int = 0
    seed: int = 0

    @property
    def at_start(self) -> bool:
        """A life may end before it has begun."""
        return bool(self.deaths)

    def __str__(self) -> str:
        rules = " ".join(
            f"{rule.site}/{name_of(rule.error)}/{rule.first}+{rule.every}x{rule.count}"
            for rule in self.rules[:3]
        )
        return f"{rules} {self.client}-{self.server} pipes {self.pipes} deaths {self.deaths}"

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Case:
        fields = json.loads(text)
        fields["rules"] = tuple(Rule(**rule) for rule in fields["rules"])
        return cls(**fields)


def sites_of_one_worker() -> list[tuple[str, int]]:
    """Every (site, error) that a worker by itself can meet."""
    return [
        (site, error)
        for site, errors in SITES.items()
        if site not in BY_GUARDIAN | WITH_OTHERS
        for error in sorted(errors)
    ]


def surroundings(site: str, chance: random.Random) -> dict[str, object]:
    """Families, pipes and deaths under which the site is called."""
    families: list[Family] = ["v4", "v6", "unix"]
    client, server = chance.choice(families), chance.choice(families)
    if site in UNIX_ONLY:
        client = server = "unix"
    elif site in TCP_ONLY and "unix" in (client, server):
        client, server = "v4", "v4"
    pipes = 64
    if site in WITHOUT_PIPES:
        pipes = 0
    elif site not in WITH_PIPES:
        pipes = chance.choice([0, 2, 64])
    return {"client": client, "server": server, "pipes": pipes, "deaths": int(site in AT_START)}


def once_each(seed: int) -> list[Case]:
    """The first call of every site, with every error."""
    chance = random.Random(seed)
    return [
        Case((Rule(site, error),), **surroundings(site, chance))  # type: ignore[arg-type]
        for site, error in sites_of_one_worker()
    ]


def sample(seed: int, size: int) -> list[Case]:
    """Some of all(), and some where everything fails now and then."""
    chance = random.Random(seed)
    return [*chance.sample(list(everything(seed)), size), *storms(seed, max(1, size // 10))]


def everything(seed: int) -> Iterator[Case]:
    """Every site and error at the n-th call, at every k-th, and now and then."""
    chance = random.Random(seed)
    for site, error in sites_of_one_worker():
        rules = [Rule(site, error, first=n) for n in (2, 3, 4, 5, 7, 10, 15, 25, 40)]
        rules += [Rule(site, error, every=k, count=20) for k in (2, 3, 7)]
        rules += [Rule(site, error, first=3, count=6), Rule(site, error, count=ALWAYS, chance=0.2)]
        for rule in rules:
            for deaths in (0, 2) if site not in AT_START else (1, 2):
                around = {**surroundings(site, chance), "deaths": deaths}
                yield Case((rule,), seed=chance.randrange(1 << 30), **around)  # type: ignore[arg-type]


def storms(seed: int, count: int) -> list[Case]:
    """All that can fail does, each call with a small probability."""
    chance = random.Random(seed)
    found = []
    for _ in range(count):
        probability = chance.choice([0.003, 0.02])
        rules = tuple(
            Rule(site, error, count=ALWAYS, chance=probability / len(SITES[site]))
            for site, error in sites_of_one_worker()
            if site not in AT_START
        )
        around = surroundings("accept4", chance)
        found.append(Case(rules, seed=chance.randrange(1 << 30), **around))  # type: ignore[arg-type]
    return found
