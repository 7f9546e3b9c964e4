"""The collective backend `hccl`: gloo on the CPU's views of the tensors."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from torch_npu.border import is_npu, to_cpu

c10d = torch._C._distributed_c10d


def install() -> None:
    if dist.is_available() and not hasattr(dist.Backend, "HCCL"):
        dist.Backend.register_backend("hccl", EmulatedHCCL, devices=["npu"])


def _cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return to_cpu(value.detach()) if is_npu(value) else value
    return [_cpu(item) for item in value]


class EmulatedHCCL(dist.ProcessGroup):
    """As torch's own groups; what gloo lacks (an average, reduce_scatter, gathering into one tensor) is made of the rest."""

    def __init__(self, store: Any, rank: int, size: int, timeout: Any) -> None:
        super().__init__(rank, size)
        self.gloo = c10d.ProcessGroupGloo(store, rank, size, timeout)
        self.name = "default_pg"

    # The base class would ask the C++ backend that it has not.
    def setGroupName(self, name: str) -> None:  # noqa: N802
        self.name = name

    def getGroupName(self) -> str:  # noqa: N802
        return dist.distributed_c10d._world.pg_names.get(self, self.name)

    group_name = property(getGroupName)

    def getBackendName(self) -> str:  # noqa: N802
        return "hccl"

    def allreduce(self, tensors: Any, opts: Any = None) -> Any:
        opts = opts or c10d.AllreduceOptions()
        tensors = _cpu(tensors)
        if opts.reduceOp != dist.ReduceOp.AVG:
            return self.gloo.allreduce(tensors, opts)
        opts.reduceOp = dist.ReduceOp.SUM
        work = self.gloo.allreduce(tensors, opts)
        work.wait()
        for tensor in tensors:
            tensor.div_(self.size())
        return work

    def allreduce_coalesced(self, tensors: Any, opts: Any = None) -> Any:
        return self.gloo.allreduce_coalesced(_cpu(tensors), opts or c10d.AllreduceCoalescedOptions())

    def broadcast(self, tensors: Any, opts: Any = None) -> Any:
        return self.gloo.broadcast(_cpu(tensors), opts or c10d.BroadcastOptions())

    def reduce(self, tensors: Any, opts: Any = None) -> Any:
        return self.gloo.reduce(_cpu(tensors), opts or c10d.ReduceOptions())

    def gather(self, outputs: Any, inputs: Any, opts: Any = None) -> Any:
        return self.gloo.gather(_cpu(outputs), _cpu(inputs), opts or c10d.GatherOptions())

    def scatter(self, outputs: Any, inputs: Any, opts: Any = None) -> Any:
        return self.gloo.scatter(_cpu(outputs), _cpu(inputs), opts or c10d.ScatterOptions())

    def allgather(self, outputs: Any, inputs: Any, opts: Any = None) -> Any:
        return self.gloo.allgather(_cpu(outputs), _cpu(inputs), opts or c10d.AllgatherOptions())

    def all_gather_single(self, output: torch.Tensor, value: torch.Tensor, opts: Any = None) -> Any:
        parts = list(_cpu(output).view(-1).split(output.numel() // self.size()))
        return self.gloo.allgather([parts], [_cpu(value).reshape(-1)], c10d.AllgatherOptions())

    def allgather_into_tensor_coalesced(self, outputs: Any, inputs: Any, opts: Any = None) -> Any:
        return [self.all_gather_single(*pair) for pair in zip(outputs, inputs, strict=True)][-1]

    def reduce_scatter_single(self, output: torch.Tensor, value: torch.Tensor, opts: Any = None) -> Any:
        asked = (opts or c10d.ReduceScatterOptions()).reduceOp
        average = asked == dist.ReduceOp.AVG
        settings = c10d.AllreduceOptions()
        settings.reduceOp = dist.ReduceOp.SUM if average else asked
        total = _cpu(value).clone()
        work = self.gloo.allreduce([total], settings)
        work.wait()
        part = total.reshape(-1).split(output.numel())[self.rank()]
        _cpu(output).view(-1).copy_(part / self.size() if average else part)
        return work

    # Their names before torch 2.13.
    _allgather_base = all_gather_single
    _reduce_scatter_base = reduce_scatter_single

    def alltoall(self, outputs: Any, inputs: Any, opts: Any = None) -> Any:
        return self.gloo.alltoall(_cpu(outputs), _cpu(inputs), opts or c10d.AllToAllOptions())

    def all_to_all_single(self, output: Any, value: Any, out_sizes: Any, in_sizes: Any, opts: Any = None) -> Any:
        return self.gloo.alltoall_base(_cpu(output), _cpu(value), out_sizes, in_sizes, opts or c10d.AllToAllOptions())

    alltoall_base = all_to_all_single

    def barrier(self, opts: Any = None) -> Any:
        return self.gloo.barrier(c10d.BarrierOptions())

    def send(self, tensors: Any, rank: int, tag: int = 0) -> Any:
        return self.gloo.send(_cpu(tensors), rank, tag)

    def recv(self, tensors: Any, rank: int, tag: int = 0) -> Any:
        return self.gloo.recv(_cpu(tensors), rank, tag)
