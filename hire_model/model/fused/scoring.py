"""Call the compiled kernel: pack the weights of stages 6 to 8 once per model, pass encoded items as they are."""

from __future__ import annotations

import operator
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.model.fused.library import OUT_OF_RANGE, Items, Kernel, Model, Pass, load
from hire_model.model.interaction import CrossLevel, Interaction, Refine
from hire_model.model.relations import RELATED_SHARE, SIZE

# A thread takes about 30 us to start. Use one more for each of these many multiplications.
_WORK_PER_THREAD = 20_000_000


def score(
    interaction: Interaction,
    images: EncodedImages,
    texts: EncodedTexts,
    index: tuple[Tensor, Tensor] | None = None,
) -> Tensor | None:
    """Return S, the pair score, as `Interaction` defines it within 1e-5; None if torch must compute it.

    Args:
        interaction: the pair stages.
        images, texts: the encoded items.
        index: image [N] and text [N] of N pairs, int64; None for all pairs.

    Returns:
        [B, C], or [N] with `index`.
    """
    kernel = _find_kernel(interaction, images, texts)
    packed = None if kernel is None else pack(interaction, kernel)
    if kernel is None or packed is None:
        return None
    x, t = images.regions, texts.words
    model = packed.choose_model(images, texts)
    if not fits(model, images, texts):
        return None
    image_side = describe(x, images.mask, images.edges, images.shares)
    text_side = describe(t, texts.mask, texts.roles, None)
    count, pointers = -1, list[int | None]([None, None])
    if index is None:
        out = torch.empty(x.shape[0], t.shape[0])
    else:
        index = index[0].long().contiguous(), index[1].long().contiguous()
        out = torch.empty(len(index[0]))
        count, pointers = len(out), [side.data_ptr() for side in index]
    threads = choose_threads(out.numel(), x, t)
    failed = kernel.score(model, image_side[0], text_side[0], count, *pointers, out.data_ptr(), threads)
    if failed == OUT_OF_RANGE:
        raise IndexError(f"The index of a pair is not in 0 to {len(x) - 1} (images) or 0 to {len(t) - 1} (texts).")
    if failed:
        raise MemoryError("The scoring kernel ran out of memory. Score fewer items at once.")
    return out


def can_score(interaction: Interaction, images: EncodedImages, texts: EncodedTexts) -> bool:
    """Return whether the kernel can score these items.

    It cannot with gradients or dropout, on a GPU, in other types than float32, for a subclass of `Interaction`, and
    where it is not compiled.
    """
    return _find_kernel(interaction, images, texts) is not None


def _find_kernel(interaction: Interaction, images: EncodedImages, texts: EncodedTexts) -> Kernel | None:
    return None if torch.is_grad_enabled() or interaction.training else find_kernel(interaction, images, texts)


def find_kernel(interaction: Interaction, images: EncodedImages, texts: EncodedTexts) -> Kernel | None:
    """Return the kernel if it is compiled and made for this class of model, type of numbers and device."""
    x, t = images.regions, texts.words
    made_for = (
        type(interaction) is Interaction  # a subclass computes something else (benchmarks/peers)
        and x.is_cpu
        and t.is_cpu
        and x.dtype == t.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    )
    return load() if made_for else None


def choose_threads(pairs: int, x: Tensor, t: Tensor) -> int:
    """Return the threads for a number of pairs of regions x [B, R, P] and words t [C, L, P]."""
    work = pairs * (x.shape[1] + t.shape[1]) * x.shape[2] ** 2 * 4
    return max(1, min(torch.get_num_threads(), work // _WORK_PER_THREAD))


def fits(model: Model, images: EncodedImages, texts: EncodedTexts) -> bool:
    """Return whether the items have the sizes of the model. If not, torch raises an error that says so."""
    (count, regions, size), (captions, words, text_size) = images.regions.shape, texts.words.shape
    same = size == text_size == model.size
    same = same and images.mask.shape == (count, regions) and texts.mask.shape == (captions, words)
    same = same and (images.shares is None or images.shares.shape == (count, regions))
    if model.kinds:
        assert images.edges is not None and texts.roles is not None
        same = same and images.edges.shape == (count, model.kinds, regions, regions)
        same = same and texts.roles.shape == (captions, words, 2 * model.kinds * model.role)
    return same


def describe(
    x: Tensor, mask: Tensor, related: Tensor | None, shares: Tensor | None
) -> tuple[Items, list[Tensor | None]]:
    """Return the addresses of a side, and the tensors that must live as long as they are used."""
    tensors = [None if tensor is None else tensor.contiguous() for tensor in (x, mask, related, shares)]
    addresses = (None if tensor is None else tensor.data_ptr() for tensor in tensors)
    return Items(*addresses, *x.shape[:2]), tensors


class _Source:
    """The weights of a module, to find out whether one of them has changed.

    `module.parameters()` takes longer than the scores of a pair.
    """

    def __init__(self, module: nn.Module) -> None:
        owners = [owner for each in module.modules() for owner in (each._modules, each._parameters)]
        self._owners = [owner for owner in owners if owner]
        self._parts = self._list_parts()
        self._weights = [(weight, weight.is_inference()) for weight in module.parameters()]
        self._versions = self._read_versions()

    def has_changed(self) -> bool:
        """Return whether a weight or a layer was replaced, moved or written to."""
        parts = self._list_parts()
        same = len(parts) == len(self._parts) and all(map(operator.is_, parts, self._parts))
        return not same or self._read_versions() != self._versions

    def _list_parts(self) -> list[nn.Module | nn.Parameter | None]:
        return [part for owner in self._owners for part in owner.values()]

    def _read_versions(self) -> list[tuple[int, int]]:
        return [(weight.data_ptr(), -1 if inference else weight._version) for weight, inference in self._weights]


class Packed:
    """Weights of one `Interaction` in the kernel's layout, with the weights that they were made of."""

    def __init__(self, interaction: Interaction, kernel: Kernel) -> None:
        self.source, self._kernel = _Source(interaction), kernel
        self._tensors: list[Tensor] = []  # keeps the memory behind the addresses
        self._transposed: dict[nn.Linear, int] = {}
        both = interaction.max_of_regions, interaction.max_of_words
        size = next(weight for weight in both if weight is not None).shape[0]
        self.width = -(-size // kernel.padding) * kernel.padding
        relations = interaction.relations
        by_region, by_word = interaction.temperatures
        self.model = Model(
            size,
            0 if relations is None else relations.kinds,
            SIZE,
            sum(weight is not None for weight in both) + interaction.alignment,
            interaction.alignment,
            0.0 if relations is None else float(relations.sharpness),
            RELATED_SHARE,
            self._pack_pass(interaction.on_words, interaction.word_image, interaction.max_of_words, by_word),
            self._pack_pass(interaction.on_regions, interaction.object_sentence, interaction.max_of_regions, by_region),
        )
        self._unrelated = Model.from_buffer_copy(self.model)
        self._unrelated.kinds = 0

    def choose_model(self, images: EncodedImages, texts: EncodedTexts) -> Model:
        """Return the model, without the relation match if the items have no edges or no roles."""
        return self._unrelated if images.edges is None or texts.roles is None else self.model

    def pack_transposed(self, refine: Refine | None, cross: CrossLevel | None) -> list[int | None]:
        """Return the addresses of the transposed weights in the order of `Training`, for the backward pass."""
        layers: list[nn.Linear | None] = [None] * 4
        if refine is not None:
            layers[:2] = refine.first, refine.second
        if cross is not None:
            layers[2:] = cross.scale, cross.out
        return [None if layer is None else self._pack_back(layer) for layer in layers]

    def _pack_pass(
        self, refine: Refine | None, cross: CrossLevel | None, max_weight: Tensor | None, temperature: float
    ) -> Pass:
        keys: list[int | None] = [None] * 6
        if refine is not None:
            keys = [*self._pack_keys(refine.keys), *self._pack_left(refine.first), *self._pack_left(refine.second)]
        levels: list[int | None] = [None] * 4
        if cross is not None:
            levels = [*self._pack_left(cross.scale), *self._pack_left(cross.out)]
        pooled = None if max_weight is None else self._keep(self._pad(max_weight))
        return Pass(*keys, *levels, pooled, temperature)

    def _pack_left(self, layer: nn.Linear) -> list[int]:
        """Return the addresses of the weight as [blocks][size][MR] and of the padded bias."""
        return [self._keep(self._pack_weight(layer.weight)), self._keep(self._pad(layer.bias))]

    def _pack_back(self, layer: nn.Linear) -> int:
        if layer not in self._transposed:
            self._transposed[layer] = self._keep(self._pack_weight(layer.weight.T))
        return self._transposed[layer]

    def _pack_weight(self, weight: Tensor) -> Tensor:
        return self._pad(weight).unflatten(0, (-1, self._kernel.block)).transpose(1, 2)

    def _pack_keys(self, layer: nn.Linear) -> list[int]:
        """Return the addresses of the weight as [panels][size][NR] and of the bias.

        A block of MR columns has the scales of MR / 2 features, then their shifts.
        """
        half, packed = self._kernel.block // 2, []
        for x in (layer.weight, layer.bias):
            scale, shift = (self._pad(part).unflatten(0, (-1, half)) for part in x.chunk(2))
            columns = torch.cat([scale, shift], dim=1).flatten(0, 1)  # [2 width, size] or [2 width]
            more = -len(columns) % self._kernel.panel
            packed.append(torch.cat([columns, columns.new_zeros(more, *columns.shape[1:])]))
        weight = packed[0].unflatten(0, (-1, self._kernel.panel)).transpose(1, 2)
        return [self._keep(weight), self._keep(packed[1])]

    def _pad(self, x: Tensor) -> Tensor:
        """Pad the first axis of x [size, ...] with zeros to the kernel's width."""
        return torch.cat([x, x.new_zeros(self.width - len(x), *x.shape[1:])])

    def _keep(self, x: Tensor) -> int:
        self._tensors.append(x.contiguous())
        return self._tensors[-1].data_ptr()


_all_packed: WeakKeyDictionary[Interaction, Packed] = WeakKeyDictionary()


def pack(interaction: Interaction, kernel: Kernel) -> Packed | None:
    """Return the packed weights; None if the weights are not float32.

    They are packed again if a weight has changed, except through `weight.data`, which torch does not record.
    """
    packed = _all_packed.get(interaction)
    if packed is None or packed.source.has_changed():
        if any(weight.dtype != torch.float32 for weight in interaction.parameters()):
            return None
        packed = _all_packed[interaction] = Packed(interaction, kernel)
    return packed
