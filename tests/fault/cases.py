"""A case: what fails, and what goes on meanwhile. Which there are. Runs in tests."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from errno import EAGAIN, ENFILE, ENOTCONN

from tests.fault.control import ALWAYS, Rule
from tests.fault.sites import (
    AFTER_ACCEPT,
    AT_START,
    BY_GUARDIAN,
    DEATHS,
    DIE_AFTER,
    ONE_BYTE,
    SITES,
    WITH_OTHERS,
    name_of,
)
from tests.relay.harness import Family

# Which sides and how many pipes reach a site; elsewhere it is not called.
UNIX_ONLY = frozenset({"recvmmsg", "recvmmsg_peek", "recvmmsg_drop", "sendmmsg"})
TCP_ONLY = frozenset(
    {"recv", "recv_peek", "recv_drop", "send", "setsockopt_nodelay", "setsockopt_linger", "ioctl"}
)
WITHOUT_PIPES = frozenset({"recv_peek", "recv_drop", "recvmmsg_peek", "recvmmsg_drop"})
WITH_PIPES = frozenset({"splice_in", "splice_out", "tee", "write"})
MAKING_PIPES = frozenset({"pipe2", "fcntl_size"})
MIRRORED = frozenset({"tee"})
COPYING = frozenset({"recv", "recvmmsg"})
# What has to happen for a site to be called at all.
NO_PROC = (Rule("opendir", ENFILE),)
COMPANIONS = {
    "write": (Rule("send", ONE_BYTE, count=20), Rule("sendmmsg", ONE_BYTE, count=20)),
    "epoll_ctl_mod": (Rule("send", EAGAIN, count=5), Rule("sendmmsg", EAGAIN, count=5)),
    "getpeername": (Rule("accept4", DIE_AFTER),),
    "getrlimit": NO_PROC,
    "fcntl": NO_PROC,
}
# Made too seldom to count on more than one call.
SELDOM = AT_START | AFTER_ACCEPT | {"read", "recvmsg", "write"}


@dataclass(frozen=True, slots=True)
class Case:
    """deaths: how often the worker is killed in the middle, with the faults on. pipes: how many
    it may open. storm: everything fails besides, each call with this probability; deadly: and
    the worker dies now and then. mirrored: every connection has a shadow."""

    rules: tuple[Rule, ...]
    client: Family = "v4"
    server: Family = "v4"
    pipes: int = 64
    deaths: int = 0
    seed: int = 0
    storm: float = 0.0
    deadly: bool = False
    mirrored: bool = False

    def all_rules(self) -> list[Rule]:
        found = list(self.rules)
        if self.storm:
            found += [
                Rule(site, error, count=ALWAYS, chance=self.storm / len(SITES[site]))
                for site, error in errors_of_one_worker()
                if site not in AT_START
            ]
        if self.deadly:
            found += [
                Rule(site, death, count=5, chance=0.002)
                for site, death in deaths_of_one_worker()
                if site not in AT_START
            ]
        return found

    @property
    def kills(self) -> bool:
        """Whether an incarnation of the worker may end."""
        return self.deaths > 0 or self.deadly or any(rule.error in DEATHS for rule in self.rules)

    def __str__(self) -> str:
        rules = " ".join(
            f"{rule.site}/{name_of(rule.error)}/{rule.first}+{rule.every}x{rule.count}"
            for rule in self.rules
        )
        if self.storm:
            rules += f" storm {self.storm}{' deadly' * self.deadly}"
        return f"{rules} {self.client}-{self.server} pipes {self.pipes} deaths {self.deaths}" + (
            " mirrored" * self.mirrored
        )

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Case:
        fields = json.loads(text)
        fields["rules"] = tuple(Rule(**rule) for rule in fields["rules"])
        return cls(**fields)


def errors_of_one_worker() -> list[tuple[str, int]]:
    """Every (site, error) that a worker by itself can meet."""
    return [
        (site, error)
        for site, errors in SITES.items()
        if site not in BY_GUARDIAN | WITH_OTHERS | AFTER_ACCEPT
        for error in sorted(errors)
    ]


def deaths_of_one_worker() -> list[tuple[str, int]]:
    """Every (site, before or after)."""
    return [
        (site, death)
        for site in SITES
        if site not in BY_GUARDIAN | WITH_OTHERS | AFTER_ACCEPT
        for death in sorted(DEATHS)
    ]


def case(site: str, rules: Sequence[Rule], chance: random.Random, deaths: int = 0) -> Case:
    """With families, pipes and deaths under which the site is called."""
    families: list[Family] = ["v4", "v6", "unix"]
    client, server = chance.choice(families), chance.choice(families)
    if site in UNIX_ONLY:
        client = server = "unix"
    elif site in TCP_ONLY and "unix" in (client, server):
        client, server = "v4", "v4"
    pipes = chance.choice([0, 2, 64])
    if site in WITHOUT_PIPES:
        pipes = 0
    elif site in WITH_PIPES:
        pipes = 64
    elif site in MAKING_PIPES:
        pipes = 63  # as no other case has: its worker has none yet
    elif site in COPYING:
        pipes = chance.choice([2, 64])
    if site in AT_START and not deaths:
        deaths = 1
    return Case(
        (*rules, *COMPANIONS.get(site, ())),
        client,
        server,
        pipes,
        deaths,
        chance.randrange(1 << 30),
        mirrored=site in MIRRORED,
    )


def once_each(seed: int) -> list[Case]:
    """The first call of every site, with every error and with a death."""
    chance = random.Random(seed)
    found = [
        case(site, [Rule(site, error)], chance)
        for site, error in [*errors_of_one_worker(), *deaths_of_one_worker()]
    ]
    found += [case("getpeername", [Rule("getpeername", ENOTCONN)], chance)]
    return found


def everything(seed: int) -> Iterator[Case]:
    """Every site and error at the n-th call, at every k-th, and now and then."""
    chance = random.Random(seed)
    for site, error in errors_of_one_worker():
        rules = [Rule(site, error, first=n) for n in (2, 3, 4, 5, 7, 10, 15, 25, 40)]
        rules += [Rule(site, error, every=k, count=20) for k in (2, 3, 7)]
        rules += [Rule(site, error, first=3, count=6), Rule(site, error, count=ALWAYS, chance=0.2)]
        if site in SELDOM:
            rules = [Rule(site, error, first=n) for n in (2, 3)]
        for rule in rules:
            for deaths in (0, 2):
                yield case(site, [rule], chance, deaths)
    for site, death in deaths_of_one_worker():
        calls = (2, 3) if site in SELDOM else (*range(2, 13), 15, 20, 30, 50, 80)
        for number in calls:
            yield case(site, [Rule(site, death, first=number)], chance)
        if site not in SELDOM:
            yield case(site, [Rule(site, death, every=5, count=20)], chance)
            yield case(site, [Rule(site, death, every=17, count=20)], chance)


def with_shadows(found: Sequence[Case]) -> list[Case]:
    """The same while every connection has a shadow."""
    return [replace(one, mirrored=True) for one in found]


def storms(seed: int, count: int) -> list[Case]:
    """All that can fail does, each call with a small probability."""
    chance = random.Random(seed)
    return [
        replace(
            case("", [], chance),
            storm=chance.choice([0.003, 0.02]),
            deadly=chance.random() < 0.5,
        )
        for _ in range(count)
    ]


def sample(seed: int, size: int) -> list[Case]:
    """Some of everything(), and some storms."""
    chance = random.Random(seed)
    return [*chance.sample(list(everything(seed)), size), *storms(seed, max(1, size // 10))]
