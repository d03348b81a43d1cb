"""Show the models as a page: python -m demo."""

from __future__ import annotations

from collections.abc import Sequence

from demo.shelf import SHIPPED, Shelf
from lib import commands


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = _parser().parse_args(argv)

    shelf = Shelf(arguments.models or [SHIPPED])
    shelf.open()

    from demo import page, server  # Gradio takes seconds, and a missing model is told before
    from demo.feedback import Corrections

    options = server.Options(
        share=arguments.share, user=arguments.auth, port=arguments.port, mcp=arguments.mcp
    )
    corrections = Corrections(arguments.feedback) if arguments.feedback else None
    built = page.build(shelf, corrections, show_data=options.is_local)
    server.serve(built, shelf, options)


def _parser() -> commands.Parser:
    parser = commands.Parser(
        prog="python -m demo",
        description=__doc__,
        example="python -m demo --models registry --share --auth alice",
    )
    parser.add_argument(
        "--models",
        nargs="+",
        default=[],
        metavar="REGISTRY|BUNDLE",
        help="a registry, REGISTRY/NAME or a bundle's folder (the default: the models that ship)",
    )
    parser.add_argument(
        "--share", action="store_true", help="make a public link, open to all without --auth"
    )
    parser.add_argument(
        "--auth",
        metavar="USER",
        help="ask for this user and the password in DEMO_PASSWORD, or one made up",
    )
    parser.add_argument(
        "--feedback",
        metavar="URI",
        help="where visitors' corrections go: a folder or s3://bucket/prefix",
    )
    parser.add_argument(
        "--port", type=int, help="the port (the default: GRADIO_SERVER_PORT, or from 7860)"
    )
    parser.add_argument(
        "--mcp", action="store_true", help="let programs that speak MCP call the endpoints"
    )
    return parser


if __name__ == "__main__":
    commands.run(main)
