"""How the page looks: one accent colour, calm greys, the fonts of the visitor's own system."""

from __future__ import annotations

from pathlib import Path

from demo.quick import gr

CSS = Path(__file__).with_name("look.css")

FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

THEME = gr.themes.Base(
    primary_hue=gr.themes.colors.teal,
    secondary_hue=gr.themes.colors.teal,
    neutral_hue=gr.themes.colors.slate,
    radius_size=gr.themes.sizes.radius_lg,
    font=FONT,
    font_mono=MONO,
).set(
    body_background_fill="#f7f8f9",
    body_background_fill_dark="#0e1318",
    body_text_color="#16202a",
    body_text_color_dark="#e6ebef",
    body_text_color_subdued="#51606d",
    body_text_color_subdued_dark="#9aa8b4",
    block_background_fill="#ffffff",
    block_background_fill_dark="#161d24",
    block_label_background_fill="#ffffff",
    block_label_background_fill_dark="#161d24",
    block_label_text_color="#51606d",
    block_label_text_color_dark="#9aa8b4",
    block_title_text_color="#51606d",
    block_title_text_color_dark="#9aa8b4",
    block_border_color="#e1e6ea",
    block_border_color_dark="#26313a",
    border_color_primary="#e1e6ea",
    border_color_primary_dark="#26313a",
    block_shadow="none",
    input_background_fill="#ffffff",
    input_background_fill_dark="#0e1318",
    input_border_color="#c9d2d9",
    input_border_color_dark="#3a4853",
    input_border_color_focus="#0f766e",
    input_border_color_focus_dark="#2dd4bf",
    color_accent="#0f766e",
    color_accent_soft="#e3f4f1",
    color_accent_soft_dark="#123330",
    button_primary_background_fill="#0f766e",
    button_primary_background_fill_hover="#115e59",
    button_primary_background_fill_dark="#2dd4bf",
    button_primary_background_fill_hover_dark="#5eead4",
    button_primary_text_color="#ffffff",
    button_primary_text_color_dark="#06231f",
    button_secondary_background_fill="#eef1f4",
    button_secondary_background_fill_dark="#212b34",
    button_secondary_text_color="#16202a",
    button_secondary_text_color_dark="#e6ebef",
    checkbox_background_color_selected="#0f766e",
    checkbox_background_color_selected_dark="#14b8a6",
    checkbox_border_color="#8795a1",
    checkbox_border_color_dark="#6b7a86",
    table_even_background_fill_dark="#161d24",
    table_odd_background_fill_dark="#1b242c",
    table_border_color_dark="#26313a",
)

MARK = (
    '<svg class="mark" viewBox="0 0 40 40" aria-hidden="true"><g fill="currentColor">'
    '<rect x="4" y="17" width="6" height="15" rx="3" transform="rotate(-24 7 24)"/>'
    '<rect x="11" y="7" width="6" height="20" rx="3"/>'
    '<rect x="18" y="3" width="6" height="22" rx="3"/>'
    '<rect x="25" y="5" width="6" height="20" rx="3"/>'
    '<rect x="32" y="10" width="5" height="16" rx="2.5"/>'
    '<path d="M11 22h26v4a12 12 0 0 1-12 12h-3a13 13 0 0 1-11-8z"/></g></svg>'
)
