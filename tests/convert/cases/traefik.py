"""Beside Traefik."""

from tests.convert.looks import answers, case, fails_over, limited, shares, without

CASES = [
    case("traefik/plain.yaml", shares(19001)),
    case("traefik/split.toml", shares(19001)),
    case("traefik/nested.yaml", shares(19001, 240)),
    case(
        "traefik/check.yaml",
        shares(19001),
        fails_over(19001, 19101, 19102),
        shares(19002),
        shares(19003),
    ),
    case(
        "traefik/clients.yaml",
        *(
            answers(port, source)
            for port, sources in {
                19001: ("127.0.0.1", "127.0.0.3", "127.0.0.17"),
                19002: ("127.0.0.1", "127.0.0.17"),
                19003: ("127.0.0.1", "127.0.0.2", "127.0.0.17"),
            }.items()
            for source in sources
        ),
    ),
    case("traefik/limit.yaml", limited(19001, 5, settles=True)),
    case("traefik/dead.yaml", answers(19001), without(19001, 19101)),
]
