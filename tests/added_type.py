# Run behind the code of docs/encoder-types.md by test_docs.py: a toy of the added type, cut, saved and loaded.
import sys
from pathlib import Path

import torch
from transformers import AutoModel as StockAutoModel

from secateur.encoders.modeling import count_heads, count_neurons, head_size
from secateur.encoders.surgery import fill_model, resize_config

torch.manual_seed(0)
shape = Data2VecTextConfig(  # noqa: F821 (the guide imports it)
    vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
    max_position_embeddings=40,
)  # fmt: skip
stock = surgery.STOCK["data2vec-text"](shape, add_pooling_layer=False).eval()  # noqa: F821
stock.set_attn_implementation("eager")
same = fill_model(
    resize_config(shape, [4, 4], [48, 48], has_pooler=False), stock.state_dict(), has_pooler=False, like=stock
)
ragged = resize_config(shape, [3, 0], [10, 48], has_pooler=False)
assert same.config.model_type == "data2vec-text"
assert ragged.model_type == "pruned-data2vec-text"
student = surgery.build_model(ragged, has_pooler=False).eval()  # noqa: F821
assert (count_heads(student), count_neurons(student), head_size(student.config)) == ([3, 0], [10, 48], 8)
student.save_pretrained(Path(sys.argv[1]))
loaded = StockAutoModel.from_pretrained(sys.argv[1]).eval()
ids = torch.tensor([[5, 6, 7, 8]])
with torch.inference_mode():
    assert torch.equal(same(input_ids=ids).last_hidden_state, stock(input_ids=ids).last_hidden_state)
    assert torch.allclose(loaded(input_ids=ids).last_hidden_state, student(input_ids=ids).last_hidden_state, atol=1e-6)
