"""Beside Traefik."""

from tests.convert.looks import answers, case, fails_over, limited, named, shares, told, without

PORTS = (19001, 19002, 19003, 19004)

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
    case("traefik/header.yaml", *(told(port, "no", source="127.0.0.3") for port in PORTS)),
    case(
        "traefik/trusted.yaml",
        told(19001, "v1", "v2", "v1 IPv6", "v2 LOCAL", "another v1", source="127.0.0.2"),
        told(19001, "v1 UNKNOWN", "v2 IPv6", source="127.0.0.17"),
        told(19001, "no", source="127.0.0.3"),
        told(19002, "v1", "v2", "another v1", source="127.0.0.3"),
        told(19003, "no", source="127.0.0.3"),
        partial=True,
    ),
    case("traefik/limit.yaml", limited(19001, 5, settles=True)),
    case(
        "traefik/sni.yaml",
        named(19001, "shop.example", "WWW.example", "a.b.eu.example", "eu.example", "", "plain"),
        named(19001, "a.eu.example", "office.example", source="127.0.0.2"),
        named(19001, "office.example", source="127.0.0.3"),
        named(19001, "shop.example", "a.eu.example", offers=("http/1.1", "h2")),
        named(19002, "shop.example", "plain"),
        *(named(19002, "shop.example", "plain", source=f"127.0.0.{n}") for n in (2, 16, 17)),
    ),
    case("traefik/dead.yaml", answers(19001), without(19001, 19101)),
]
