"""What PEFT's code asks of values while it is set up and run, answered as a real run would find it.

A few of PEFT's methods look at numbers that a dry run does not have: whether a mask is set, how often an entry occurs, which
rows belong together. ``assumed`` answers such questions by what is known beforehand:

- a yes/no question about values (is there an infinity?) is answered with no, a single number that is read is 0;
- a mask that picks entries picks all of them;
- SHiRA's mask has as many entries as its configuration says, FRoD's sparse matrix too;
- the groups into which AdaMSS sorts the rows of a weight are of equal size.

Sparse matrices do not exist among fake tensors. ``Entries`` stands in for them: it holds the same indices and values, and
spreads them over a dense matrix with the operations that a card would launch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

_PICKING = (Tensor.__getitem__, Tensor.__setitem__)


@dataclass(frozen=True)
class Entries:
    """A sparse matrix of ``size``: ``values`` (n) at ``indices`` (2, n)."""

    indices: Tensor
    values: Tensor
    size: tuple[int, int]

    def coalesce(self) -> Entries:
        """Itself: no place occurs twice."""
        return self

    def _nnz(self) -> int:
        return self.values.numel()

    def to_dense(self) -> Tensor:
        """The matrix with all its zeros."""
        return torch.zeros(self.size, dtype=self.values.dtype).index_put(tuple(self.indices.unbind(0)), self.values)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Tensor:
        """``dense += entries``, the only operation that is asked for."""
        if getattr(func, "__name__", "") not in ("add_", "__iadd__"):
            raise NotImplementedError(f"{func} of entries")
        dense, entries = args
        return dense.index_put_(  # type: ignore[no-any-return]
            tuple(entries.indices.long().unbind(0)), entries.values.to(dense.dtype), accumulate=True
        )


class _Answers(TorchFunctionMode):
    """Answers questions about values instead of passing them on."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs ``func``, or says what it would have said."""
        if func is Tensor.__bool__:
            return _known(args[0], False)
        if func is Tensor.item:
            return _known(args[0], 0)
        if func in _PICKING:
            args = (args[0], _picked(args[1], args[0]), *args[2:])
        return func(*args, **(kwargs or {}))


def _known(tensor: Tensor, otherwise: Any) -> Any:
    """The one value of ``tensor`` if it is known (a constant), else ``otherwise``."""
    constant = getattr(tensor, "constant", None)
    if constant is None:
        return otherwise
    with _disable_current_modes(), torch._C.DisableTorchFunction():  # answers may stand inside of answers
        return type(otherwise)(constant.reshape(-1)[0]) if tensor.numel() == 1 else otherwise


def _picked(index: Any, tensor: Tensor) -> Any:
    """``index`` with masks of one dimension replaced by the numbers of all entries, as ``nonzero`` would give them."""
    if isinstance(index, tuple):
        return tuple(_picked(one, tensor) for one in index)
    if isinstance(index, Tensor) and index.dtype == torch.bool and index.dim() == 1:
        return torch.arange(index.numel())
    return index


def _shira_layer(original: Any) -> Any:
    def update_layer(self: Any, adapter_name: str, mask: Any, r: int, config: Any, **kwargs: Any) -> None:
        original(self, adapter_name, None, r, config, **kwargs)
        count = self.shira_weight[adapter_name].numel()
        self.shira_indices[adapter_name] = torch.zeros(2, count, dtype=torch.int)

    return update_layer


def _shira_delta(self: Any, adapter: str) -> Entries:
    values = self.shira_weight[adapter] * self.scaling[adapter]
    return Entries(self.shira_indices[adapter], values, (self.out_features, self.in_features))


def _frod_tensors(self: Any, adapter: str, *, device: Any, dtype: Any) -> tuple[Tensor, Tensor, Entries, Tensor]:
    basis = self.frod_V[adapter].to(dtype=dtype).clone()  # it stays in the computer's memory and is copied when needed
    values = self.frod_lambda_s_values[adapter].to(dtype=dtype)
    sparse = Entries(self.frod_s_indices[adapter].long(), values, (basis.shape[0], basis.shape[0]))
    return self.frod_U[adapter].to(dtype=dtype).clone(), basis, sparse, self.frod_lambda_l[adapter].to(dtype=dtype)


def _groups(rows: Tensor, groups: int, iterations: int) -> tuple[tuple[int, int], int]:
    """In place of clusters of ``rows``: how many rows and how many groups there are."""
    return (rows.shape[0], min(groups, rows.shape[0])), min(groups, rows.shape[0])


def _members(split: tuple[int, int]) -> dict[int, Tensor]:
    """Rows of each group."""
    rows, groups = split
    return {at: torch.zeros(rows // groups + (at < rows % groups), dtype=torch.long) for at in range(groups)}


def _gram_free(matrix: Tensor, q: int = 6, niter: int = 2, M: Any = None) -> tuple[Tensor, Tensor, Tensor]:  # noqa: N803
    """``torch.svd_lowrank`` by its shapes alone; what it makes on the way is gone before training."""
    rows, columns = matrix.shape[-2:]
    return matrix.new_empty(rows, q), matrix.new_empty(q), matrix.new_empty(columns, q)


def _order(self: Any, n: int, b: int, r: int = 3, n_butterfly_factor: int = 1) -> Tensor:
    """In place of BOFT's permutation of ``n`` entries."""
    return torch.arange(n)


def _permutation(self: Any, indices: Tensor) -> Tensor:
    """A permutation matrix in fp32, without its ones."""
    return torch.zeros(len(indices), len(indices))


def _occurrences(numbers: Tensor, weights: Any = None, minlength: int = 0) -> Tensor:
    """``torch.bincount`` when no number exceeds ``minlength``."""
    return torch.zeros(minlength, dtype=torch.long)


_svd = torch.linalg.svd


def _rows_first(matrix: Tensor, full_matrices: bool = True, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
    """``torch.linalg.svd`` with the layout of a card: rows of the third factor lie together, and a slice is a view."""
    left, middle, right = _svd(matrix, full_matrices=full_matrices, **kwargs)
    return left, middle, right.contiguous()


@contextmanager
def assumed(moved: bool = False) -> Iterator[None]:
    """Inside, PEFT's questions about values have answers; enter it under ``fake.without_values``.

    ``moved`` says that the script moves the finished model to the computer's memory and back: a slice of a larger tensor then
    becomes a tensor of its own.
    """
    with ExitStack() as stack:
        shira = import_module("peft.tuners.shira.layer").ShiraLayer
        linear = import_module("peft.tuners.shira.layer").Linear
        frod = import_module("peft.tuners.frod.layer").FrodLayer
        frod_linear = import_module("peft.tuners.frod.layer").Linear
        adamss = import_module("peft.tuners.adamss.layer")
        mask = import_module("peft.tuners.shira.mask_functions")
        stack.enter_context(patch.object(shira, "update_layer", _shira_layer(shira.update_layer)))
        stack.enter_context(patch.object(linear, "get_delta_weight", _shira_delta))
        stack.enter_context(patch.object(mask, "random_mask", lambda *args, **kwargs: None))
        owner = frod_linear if "_get_frod_tensors" in vars(frod_linear) else frod
        stack.enter_context(patch.object(owner, "_get_frod_tensors", _frod_tensors))
        stack.enter_context(patch.object(adamss, "clustering_Z", _groups))
        stack.enter_context(patch.object(adamss, "seg_locations", _members))
        stack.enter_context(patch.object(torch, "svd_lowrank", _gram_free))
        stack.enter_context(patch.object(torch, "bincount", _occurrences))
        boft = import_module("peft.tuners.boft.layer").BOFTLayer
        stack.enter_context(patch.object(boft, "block_butterfly_perm", _order))
        stack.enter_context(patch.object(boft, "perm2mat", _permutation))
        if not moved:
            stack.enter_context(patch.object(torch.linalg, "svd", _rows_first))
        if "sklearn" not in sys.modules and find_spec("sklearn") is None:
            # AdaMSS asks whether it is there, and would use it for its groups only.
            module = ModuleType("sklearn")
            module.__spec__ = ModuleSpec("sklearn", None)
            stack.enter_context(patch.dict(sys.modules, {"sklearn": module}))
        stack.enter_context(_Answers())
        yield
