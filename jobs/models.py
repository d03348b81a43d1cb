"""Look at the models of a registry, compare two versions, choose the champion, and go back."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape  # nosec B406

from lib import commands, registry
from lib.failures import Misuse
from lib.records import Card
from lib.registry import Champion

BAR_PX = 14
LABEL_PX = 140
SCALE_PX = 400
COLOURS = ("#8b9bb4", "#1d6fd8")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = _parser().parse_args(argv)
    arguments.command(arguments)


def _parser() -> commands.Parser:
    parser = commands.Parser(
        prog="python -m jobs.models",
        description=__doc__,
        example="python -m jobs.models list registry\n"
        "  python -m jobs.models rollback registry mobilenet",
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION", parser_class=commands.Action)
    _add(actions, "list", _list, "every version of every model, the champions marked").add_argument(
        "name", nargs="?", help="one model alone"
    )
    show = _add(actions, "show", _show, "what a version says of itself", "name")
    show.add_argument("version", nargs="?", help="the default: the champion")
    compare = _add(actions, "compare", _compare, "two versions side by side", "name", "a", "b")
    compare.add_argument("--picture", type=_svg, metavar="FILE.svg", help="draw it, too")
    promote = _add(actions, "promote", _promote, "make a version the champion", "name", "version")
    rollback = _add(actions, "rollback", _rollback, "go back to the champion before", "name")
    for action, reason in ((promote, "promoted by hand"), (rollback, "rolled back by hand")):
        action.add_argument("--reason", default=reason, help="kept in the history (%(default)s)")
        action.add_argument("--dry-run", action="store_true", help="tell what would be done")
    return parser


def _add(
    actions: Any, name: str, command: Any, words: str, *places: str
) -> argparse.ArgumentParser:
    action = actions.add_parser(name, help=words, description=words)
    action.add_argument("registry", help="a folder or s3://bucket/prefix")
    for place in places:
        action.add_argument(place)
    action.add_argument("--json", action="store_true", help="print it as JSON")
    action.set_defaults(command=command)
    return action


def _svg(text: str) -> Path:
    if not text.endswith(".svg"):
        raise argparse.ArgumentTypeError(f"must end in .svg. Received: {text}")
    return Path(text)


def _list(arguments: argparse.Namespace) -> None:
    names = [arguments.name] if arguments.name else registry.names(arguments.registry)
    rows = [row for name in names for row in _rows(arguments.registry, name)]
    if not rows:
        what = f"{arguments.registry}{f'/{arguments.name}' if arguments.name else ''}"
        raise Misuse(f"{what}: there is no version of a model")
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'':2}{'model':<10} {'version':<26} {'accuracy, 95 % interval':<23} {'images':>7}  why")
    for row in rows:
        mark = "* " if row["champion"] else "  "
        print(
            f"{mark}{row['model']:<10} {row['version']:<26} {row['accuracy']:<23} "
            f"{row['n_images']:>7}  {row['why']}"
        )
    print("* the champion")


def _rows(place: str, name: str) -> list[dict[str, Any]]:
    champion = registry.champion(place, name)
    cards = [registry.card(place, name, version) for version in registry.versions(place, name)]
    return [_row(card, champion) for card in reversed(cards)]


def _row(card: Card, champion: Champion | None) -> dict[str, Any]:
    changes = [c for c in champion.history if c["version"] == card.version] if champion else []
    return {
        "model": card.name,
        "version": card.version,
        "champion": champion is not None and champion.version == card.version,
        "accuracy": _accuracy(card),
        "n_images": card.data.get("n_images", 0),
        "why": changes[-1]["reason"] if changes else _verdict(card),
    }


def _accuracy(card: Card) -> str:
    found = card.metrics.get("accuracy")
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]" if found else "unknown"


def _verdict(card: Card) -> str:
    """Return why a version was kept as a candidate, which its card tells."""
    return card.metrics.get("verdict", {}).get("reason", "")


def _show(arguments: argparse.Namespace) -> None:
    champion = registry.champion(arguments.registry, arguments.name)
    version = arguments.version or (champion.version if champion else None)
    if version is None:
        raise Misuse(f"{arguments.registry}/{arguments.name}: has no champion; name a version")
    card = registry.card(arguments.registry, arguments.name, version)
    history = champion.history if champion else []
    if arguments.json:
        print(json.dumps({"card": asdict(card), "history": history}, indent=2))
        return
    for line in _facts(card):
        print(f"{line[0]:<18} {line[1]}")
    print(f"\n{'class':<18} {'recall':>7} {'precision':>9} {'images':>7}")
    for name, figures in card.metrics.get("per_class", {}).items():
        print(
            f"{name:<18} {figures['recall']:>7.3f} {figures['precision']:>9.3f} "
            f"{figures['n_images']:>7}"
        )
    print("\nchampions, the last one is in charge:" if history else "\nnever a champion")
    for change in history:
        print(f"{change['at']}  {change['version']}  {change['reason']}")


def _facts(card: Card) -> list[tuple[str, str]]:
    """Return what a person asks of a version first, as names and values."""
    return [
        ("model", card.name),
        ("version", card.version),
        ("classes", ", ".join(card.classes)),
        ("accuracy", f"{_accuracy(card)} {card.metrics.get('how', '')}".strip()),
        ("calibration error", str(card.metrics.get("calibration_error", "unknown"))),
        ("learned from", f"{card.data.get('n_images', 0):,} images"),
        ("data", str(card.data.get("fingerprint", ""))[:16]),
        ("split", str(card.sessions.get("how", ""))),
        ("command", str(card.config.get("command", ""))),
        ("gate", _verdict(card) or "no verdict"),
    ]


def _compare(arguments: argparse.Namespace) -> None:
    a, b = (
        registry.card(arguments.registry, arguments.name, version)
        for version in (arguments.a, arguments.b)
    )
    if arguments.picture:
        arguments.picture.write_text(draw(a, b), "utf-8")
    if arguments.json:
        print(json.dumps({"a": asdict(a), "b": asdict(b)}, indent=2))
        return
    print(f"{'':<18} {'A':<28} B")
    for (name, left), (_, right) in zip(_facts(a), _facts(b), strict=True):
        print(f"{name:<18} {left:<28} {right if right != left else '='}")
    print(f"\n{'recall of class':<18} {'A':>7} {'B':>7} {'B - A':>7}")
    for name, left, right in recalls(a, b):
        print(f"{name:<18} {_figure(left)} {_figure(right)} {_difference(left, right)}")
    if a.data.get("fingerprint") != b.data.get("fingerprint"):
        print("\nThe two were measured on other data: their figures are no pair. The gate's are.")


def recalls(a: Card, b: Card) -> list[tuple[str, float | None, float | None]]:
    """Return the recall, 0 to 1, of each class in two versions; None where a class is unknown."""
    left, right = a.metrics.get("per_class", {}), b.metrics.get("per_class", {})
    return [
        (name, left.get(name, {}).get("recall"), right.get(name, {}).get("recall"))
        for name in dict.fromkeys([*a.classes, *b.classes])
    ]


def _figure(value: float | None) -> str:
    return f"{'-':>7}" if value is None else f"{value:>7.3f}"


def _difference(left: float | None, right: float | None) -> str:
    return f"{'-':>7}" if left is None or right is None else f"{right - left:>+7.3f}"


def draw(a: Card, b: Card) -> str:
    """Return a picture, SVG, of the recall of each class: A above, B below."""
    parts = [_text(0, BAR_PX, f"{a.name}: recall of each class")]
    y = 2 * BAR_PX
    for card, colour in zip((a, b), COLOURS, strict=True):
        words = f"{card.version} {_accuracy(card)}"
        parts += [_bar(0, y, BAR_PX, colour), _text(20, y + 11, words)]
        y += BAR_PX + 4
    for name, *values in recalls(a, b):
        y += BAR_PX
        parts.append(_text(0, y + BAR_PX + 4, name))
        for value, colour in zip(values, COLOURS, strict=True):
            if value is not None:
                parts.append(_bar(LABEL_PX, y, max(1.0, value * SCALE_PX), colour))
                parts.append(_text(LABEL_PX + value * SCALE_PX + 5, y + 11, f"{value:.3f}"))
            y += BAR_PX
    size = f'width="{LABEL_PX + SCALE_PX + 60}" height="{y + BAR_PX}"'
    style = 'font-family="sans-serif" font-size="12"'
    ground = '<rect width="100%" height="100%" fill="white"/>'
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n{ground}\n{body}\n</svg>\n'


def _bar(x: float, y: float, width: float, colour: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{width:.1f}" height="{BAR_PX - 2}" fill="{colour}"/>'


def _text(x: float, y: float, words: str) -> str:
    return f'<text x="{x:.1f}" y="{y}">{escape(words)}</text>'


def _promote(arguments: argparse.Namespace) -> None:
    place, name, version = arguments.registry, arguments.name, arguments.version
    before = registry.champion(place, name)
    if before and before.version == version:
        print(f"{name}: {version} is the champion already")
        return
    if arguments.dry_run:
        registry.card(place, name, version)
        print(f"{name}: would go from {_named(before)} to {version}")
        return
    _told(name, before, registry.promote(place, name, version, arguments.reason), arguments.json)


def _rollback(arguments: argparse.Namespace) -> None:
    place, name = arguments.registry, arguments.name
    before = registry.champion(place, name)
    if arguments.dry_run:
        earlier = before.stack[-2] if before and len(before.stack) > 1 else "nothing"
        print(f"{name}: would go from {_named(before)} back to {earlier}")
        return
    _told(name, before, registry.rollback(place, name, arguments.reason), arguments.json)


def _named(champion: Champion | None) -> str:
    return champion.version if champion else "no champion"


def _told(name: str, before: Champion | None, after: Champion, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(after), indent=2))
        return
    print(f"{name}: {_named(before)} -> {after.version}")


if __name__ == "__main__":
    commands.run(main)
