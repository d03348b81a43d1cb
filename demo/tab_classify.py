"""The first tab: one picture or a live camera, what each model says, why, and corrections."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

from PIL import Image

from demo import answers, feedback, pieces
from demo.doors import Classes, Photo, Upload, refusal
from demo.feedback import Corrections
from demo.quick import gr, utils
from demo.shelf import Shelf
from lib import samples
from lib.failures import Failure, Unreadable

LIVE_EVERY_S = 0.2
"""How often the camera sends a frame, in seconds; the newest replaces one that still waits."""

LIVE_AT_MOST_S = 300
MAX_LIVE = 8
"""How many visitors may have their cameras on at once."""

MAX_AT_ONCE = 8
"""How many pictures are looked at in parallel; the models themselves wait for a free core."""

EXAMPLES = ((1, 3), (2, 3), (3, 8), (0, 3), (2, 15), (None, 3))
"""Fingers and seeds of the drawn examples; None is a picture without a hand."""

EXAMPLE_PX = 320

Choice = dict[str, str]


def build(page: gr.Blocks, shelf: Shelf, corrections: Corrections | None, chosen: gr.State) -> None:
    """Lay out the tab; `chosen` holds the versions that a visitor picked (model to uri)."""
    with gr.Row(equal_height=False, elem_id="stage"):
        with gr.Column(scale=5, min_width=300, elem_classes="given"):
            photo, live = _inputs()
            why = gr.Checkbox(label="Show why", info="Colour the places that spoke for the answer.")
            _examples(page, photo)
        with gr.Column(scale=6, min_width=300, elem_classes="shown"):
            result = gr.HTML(pieces.EMPTY, elem_classes="plain", elem_id="answers")
            if corrections:
                _corrections(shelf, corrections, photo, chosen)
    gr.on(
        [photo.change, why.change, chosen.change],
        functools.partial(answer, shelf),
        [photo, why, chosen],
        result,
        api_visibility="private",
        show_progress="minimal",
        trigger_mode="always_last",
        concurrency_limit=MAX_AT_ONCE,
    )
    live.stream(
        functools.partial(answer_live, shelf),
        [live, why, chosen],
        result,
        api_name="live",
        api_visibility="private",
        show_progress="hidden",
        stream_every=LIVE_EVERY_S,
        time_limit=LIVE_AT_MOST_S,
        concurrency_limit=MAX_LIVE,
    )
    _endpoint(shelf, photo)


def _inputs() -> tuple[Photo, Photo]:
    with gr.Tabs():
        with gr.Tab("Picture", id="picture"):
            photo = Photo(
                label="Picture",
                type="filepath",
                image_mode=None,
                buttons=["fullscreen"],
                height=330,
                sources=["upload", "webcam", "clipboard"],
                elem_id="photo",
                alt_text="Your picture",
                placeholder="# Drop a picture\nor tap to choose one",
            )
        with gr.Tab("Live camera", id="live"):
            live = Photo(
                label="Live camera",
                type="filepath",
                image_mode=None,
                sources=["webcam"],
                streaming=True,
                height=330,
                elem_id="live",
                buttons=[],
            )
    return photo, live


def _examples(page: gr.Blocks, photo: Photo) -> None:
    with gr.Column(elem_id="tryout"):
        gr.Markdown("Or try one of these drawn examples:", elem_classes="heading")
        shown = gr.Gallery(
            label="Examples",
            show_label=False,
            columns=6,
            object_fit="cover",
            allow_preview=False,
            height="auto",
            elem_id="examples",
            interactive=False,
            buttons=[],
        )
    page.load(drawn, None, shown, api_visibility="private", show_progress="hidden")

    def pick(event: gr.SelectData) -> str:
        return drawn()[event.index][0]

    shown.select(pick, None, photo, api_visibility="private", show_progress="hidden")


@functools.cache
def drawn() -> list[tuple[str, str]]:
    """Draw the examples, once, and return the path and the name of each."""
    folder = Path(utils.get_upload_folder()) / "examples"
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for n_fingers, seed in EXAMPLES:
        if n_fingers is None:
            image, name = samples.not_a_hand(seed, EXAMPLE_PX), "no hand"
        else:
            image = samples.draw(n_fingers, seed, EXAMPLE_PX).image
            name = f"{n_fingers} finger{'' if n_fingers == 1 else 's'}"
        path = folder / f"{name.replace(' ', '-')}-{seed}.png"
        Image.fromarray(image).save(path)
        found.append((str(path), name))
    return found


def answer(shelf: Shelf, photo: Upload | None, why: bool, chosen: Choice) -> str:
    """Return what each model says of a picture, as HTML."""
    if photo is None:
        return pieces.EMPTY
    try:
        return pieces.answered(answers.ask(shelf.pick(chosen), photo, why=why))
    except Unreadable as error:
        return pieces.failed(error.message)


def answer_live(shelf: Shelf, frame: Upload | None, why: bool, chosen: Choice) -> object:
    """Return the answers to the newest frame; until the camera has one, what is there stays."""
    return gr.skip() if frame is None else answer(shelf, frame, why, chosen)


def _corrections(shelf: Shelf, corrections: Corrections, photo: Photo, chosen: gr.State) -> None:
    with gr.Group(visible=False, elem_id="correct") as panel:
        label = Classes(
            label="That's wrong, it is …",
            filterable=False,
            elem_id="right-class",
        )
        send = gr.Button("Send this correction", variant="secondary", elem_id="send-correction")
        said = gr.Markdown(feedback.CONSENT, elem_classes="quiet")
    send.click(
        functools.partial(correct, shelf, corrections),
        [photo, label, chosen],
        [said, label],
        api_name="correct",
        api_visibility="undocumented",
        concurrency_limit=MAX_AT_ONCE,
        show_progress="minimal",
    )
    gr.on(
        [photo.change, chosen.change],
        functools.partial(offer, shelf),
        [photo, chosen],
        [panel, label, said],
        api_name="offer",
        api_visibility="private",
        show_progress="hidden",
        trigger_mode="always_last",
    )


def offer(shelf: Shelf, photo: Upload | None, chosen: Choice) -> tuple[gr.Group, Classes, str]:
    """Return the panel, its classes, those of the models that answer now, and the consent."""
    classes = Classes(list(shelf.classes(chosen)), value=None)
    return gr.Group(visible=photo is not None), classes, feedback.CONSENT


def correct(
    shelf: Shelf, corrections: Corrections, photo: Upload | None, label: str | None, chosen: Choice
) -> tuple[str, None]:
    """Store a picture under the class that the visitor gave; return a word of thanks."""
    if photo is None or label is None:
        raise refusal("Choose the picture and what it really shows.")
    if label not in shelf.classes(chosen):
        raise refusal("The models know other classes by now. Choose the picture again.")
    try:
        corrections.add(photo, label, shelf.bundles[0].card.image)
    except Unreadable as error:
        raise refusal(error.message) from error
    except Failure as failure:
        logging.getLogger(__name__).warning("a correction was not stored: %s", failure)
        raise refusal("The correction could not be stored. Please try again later.") from failure
    return (
        f"Thank you. The picture is stored as **{pieces.plain(label)}** "
        "and will help the next training.",
        None,
    )


def _endpoint(shelf: Shelf, photo: Photo) -> None:
    def classify(image: Upload | None) -> dict[str, object]:
        return classify_one(shelf, image)

    gr.Button(visible=False).click(
        classify,
        photo,
        gr.JSON(visible=False),
        api_name="classify",
        concurrency_limit=MAX_AT_ONCE,
        api_description="Ask every model what a picture shows. Returns agree and models: for each "
        "its name, version, label, score, confident, scores, threshold and milliseconds; "
        "or error with code and message. Addresses of other places are not fetched: give a data: "
        "address, or upload the picture.",
    )


def classify_one(shelf: Shelf, image: Upload | None) -> dict[str, object]:
    """Return what each model says of a picture, for programs."""
    if image is None:
        return {"error": {"code": "empty", "message": "no picture was sent"}}
    try:
        found = answers.ask(shelf.bundles, image)
    except Unreadable as error:
        return {"error": {"code": error.code, "message": error.message}}
    return {"agree": answers.agree(found), "models": [answer.as_json() for answer in found]}
