"""Packed tensors in safetensors files: reading, writing, whole checkpoints, and what packing one would bring.

`header`, `reader`, `atomic` and `writer` know safetensors and files. `packed_entry` and `container` put packed tensors in
them. `selection`, `sharded`, `file_packing`, `checkpoint` and `report` pack a model. `inspection` reports on a model.
"""
