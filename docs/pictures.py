"""Draw the pipeline, in English and in Russian: `python docs/pictures.py` writes docs/pipeline.svg and pipeline.ru.svg.

Every word stands on a box with a colour of its own, and the arrows are of a grey that shows on white and on black: the
pictures are the same in a light and in a dark page.
"""

from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).parent
TEAL, BLUE, AMBER, GREY = "#0f6b64", "#1e4fa3", "#9a4b0c", "#7d8791"
WIDTH, GAP, HEIGHT, TOP = 172, 24, 112, 12

# A title, and what is said below it: the stages from left to right, then what feeds and what judges them.
TEXTS = {
    "pipeline.svg": {
        "title": "Teacher, saliency, cut, repair, distillation, student; sentence pairs feed them, scores judge them",
        "stages": (
            ("Teacher", "a sentence encoder:", "BERT, RoBERTa,", "DistilBERT"),
            ("Saliency", "how far do vectors", "move without each", "head and neuron?"),
            ("Cut", "what matters least", "goes; each layer keeps", "counts of its own"),
            ("Repair", "least squares fit the", "rest to the teacher,", "without training"),
            ("Distillation", "training pulls the", "vectors to the", "teacher's"),
            ("Student", "a folder that stock", "transformers and", "ONNX Runtime load"),
        ),
        "pairs": ("Sentence pairs, English and Russian", "cleaned, deduplicated; some of them held out by hash"),
        "scores": ("Scores", "held-out pairs choose,", "encodechka judges"),
    },
    "pipeline.ru.svg": {
        "title": "Учитель, значимость, срез, починка, дистилляция, ученик; их питают пары предложений, их судят оценки",
        "stages": (
            ("Учитель", "кодировщик", "предложений: BERT,", "RoBERTa, DistilBERT"),
            ("Значимость", "как сдвинется вектор", "без каждой головы", "и нейрона?"),
            ("Срез", "уходит наименее", "важное; у каждого", "слоя свои размеры"),
            ("Починка", "остаток подгоняется", "к учителю,", "без обучения"),
            ("Дистилляция", "обучение приближает", "векторы к векторам", "учителя"),
            ("Ученик", "папка для обычных", "transformers", "и ONNX Runtime"),
        ),
        "pairs": ("Пары предложений, английский и русский", "очищены, без повторов; часть отложена по хешу"),
        "scores": ("Оценки", "по отложенным парам", "и по encodechka"),
    },
}


def draw_pipeline(texts: dict) -> str:
    """Return the picture as SVG."""
    lefts = [8 + number * (WIDTH + GAP) for number in range(6)]
    below = TOP + HEIGHT + 44
    parts = []
    for number, (left, words) in enumerate(zip(lefts, texts["stages"], strict=True)):
        colour = BLUE if number in (0, 5) else TEAL
        parts += draw_box(left, TOP, WIDTH, HEIGHT, colour, words)
        if number:
            parts.append(draw_arrow(left - GAP, TOP + HEIGHT / 2, left - 2, TOP + HEIGHT / 2))
    parts += draw_box(lefts[1], below, lefts[4] + WIDTH - lefts[1], 62, AMBER, texts["pairs"])
    for number in (1, 3, 4):
        middle = lefts[number] + WIDTH / 2
        parts.append(draw_arrow(middle, below, middle, TOP + HEIGHT + 2))
    parts += draw_box(lefts[5], below, WIDTH, 78, AMBER, texts["scores"])
    middle = lefts[5] + WIDTH / 2
    parts.append(draw_arrow(middle, TOP + HEIGHT, middle, below - 2))
    width, height = lefts[5] + WIDTH + 8, below + 78 + 10
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
    return "\n".join([f"{head} {FONT}>", f"<title>{escape(texts['title'])}</title>", MARKER, *parts, "</svg>", ""])


FONT = 'font-family="system-ui, Segoe UI, Roboto, Helvetica, Arial, sans-serif" text-anchor="middle" fill="#ffffff"'
MARKER = (
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    f'<path d="M0 0L8 4L0 8z" fill="{GREY}"/></marker></defs>'
)


def draw_box(left: float, top: float, width: float, height: float, colour: str, words: tuple[str, ...]) -> list[str]:
    title, *lines = words
    middle = left + width / 2
    said = [
        f'<text x="{middle:g}" y="{top + 52 + 19 * number:g}" font-size="13">{escape(line)}</text>'
        for number, line in enumerate(lines)
    ]
    return [
        f'<rect x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}" rx="8" fill="{colour}"/>',
        f'<text x="{middle:g}" y="{top + 27:g}" font-size="17" font-weight="600">{escape(title)}</text>',
        *said,
    ]


def draw_arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    place = f'x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"'
    return f'<line {place} stroke="{GREY}" stroke-width="2" marker-end="url(#tip)"/>'


if __name__ == "__main__":
    for name, texts in TEXTS.items():
        (FOLDER / name).write_text(draw_pipeline(texts), encoding="utf-8")
