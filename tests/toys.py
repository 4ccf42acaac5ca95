"""The smallest teacher that does what a large one does, its tokenizer, and pairs; for tests and for scripts."""

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from secateur.encoders.modeling import config_class
from secateur.encoders.surgery import STOCK

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

SENTENCES = [
    ("The cat sleeps on the warm roof.", "Кошка спит на тёплой крыше."),
    ("A gardener cuts the old apple tree.", "Садовник обрезает старую яблоню."),
    ("We planted roses last autumn.", "Прошлой осенью мы посадили розы."),
    ("Where is the nearest station?", "Где ближайшая станция?"),
    ("The train leaves at nine.", "Поезд отходит в девять."),
    ("She reads a long letter.", "Она читает длинное письмо."),
    ("It rained all night, and the river rose.", "Всю ночь шёл дождь, и река поднялась."),
    ("Open the window, please.", "Открой окно, пожалуйста."),
    ("My brother lives in a small town by the sea.", "Мой брат живёт в маленьком городе у моря."),
    ("Bread and milk are on the table.", "Хлеб и молоко на столе."),
    ("The children are playing in the yard.", "Дети играют во дворе."),
    ("He forgot the key.", "Он забыл ключ."),
    ("The old bridge was closed in winter.", "Старый мост закрыли зимой."),
    ("Do you speak Russian?", "Вы говорите по-русски?"),
    ("A new library opened near the school.", "Рядом со школой открылась новая библиотека."),
    ("The soup is too salty.", "Суп слишком солёный."),
    ("The doctor said that I should rest.", "Врач сказал, что мне надо отдохнуть."),
    ("Snow covered the quiet forest.", "Снег укрыл тихий лес."),
    ("I cannot find my glasses.", "Я не могу найти свои очки."),
    ("The shop sells fruit and vegetables.", "Магазин продаёт фрукты и овощи."),
    ("Two birds sat on a branch.", "Две птицы сидели на ветке."),
    ("Their house has a red door.", "У их дома красная дверь."),
    ("The lesson begins after lunch.", "Урок начинается после обеда."),
    ("Nobody answered the phone.", "Никто не ответил на звонок."),
    ("The wind broke a young tree.", "Ветер сломал молодое дерево."),
    ("Water boils at a hundred degrees.", "Вода кипит при ста градусах."),
    ("They sold the car in spring.", "Они продали машину весной."),
    ("This film is very long and dull.", "Этот фильм очень длинный и скучный."),
    ("The moon is bright tonight.", "Луна сегодня яркая."),
    ("Grandmother bakes a pie on Sundays.", "Бабушка печёт пирог по воскресеньям."),
    ("The road to the village is bad.", "Дорога в деревню плохая."),
    ("I will write to you tomorrow.", "Я напишу тебе завтра."),
]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """WordPiece over the words of the first pairs and single characters, so that other words fall into tokens."""
    words = sorted({word.strip(".,?-").lower() for pair in SENTENCES[:12] for side in pair for word in side.split()})
    letters = sorted({letter for pair in SENTENCES for side in pair for letter in side.lower() if letter.isalnum()})
    vocabulary = [*SPECIAL, ".", ",", "?", "-", *letters, *(f"##{letter}" for letter in letters), *words]
    pieces = {piece: number for number, piece in enumerate(dict.fromkeys(vocabulary))}
    backend = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", pieces["[CLS]"]), ("[SEP]", pieces["[SEP]"])]
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(tokenizer_object=backend, **dict(zip(names, SPECIAL, strict=True)))


def make_transformer(
    family: str, *, vocabulary: int, layers: int, heads: int, hidden: int, neurons: int, seed: int
) -> PreTrainedModel:
    """Return a stock model with N(0, 0.3²) weights and biases: its layers differ and its sentence vectors spread."""
    width = "hidden_dim" if family == "distilbert" else "intermediate_size"
    shape = {"num_hidden_layers": layers, "num_attention_heads": heads, "hidden_size": hidden, width: neurons}
    settings = config_class(STOCK[family])(vocab_size=vocabulary, max_position_embeddings=80, pad_token_id=0, **shape)
    model = STOCK[family](settings)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.3
            parameter.copy_(1 + noise if "norm" in name.lower() and name.endswith("weight") else noise)
    return model.eval()
