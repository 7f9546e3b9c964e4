"""The "hccl" backend on gloo: collectives run on CPU aliases of the npu tensors."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch._C import _distributed_c10d as c10d

from tests.npu.cann.alias import cpu_alias, on_npu


def install() -> None:
    """Instead of the process group that torch_npu registered, which needs libhccl."""
    dist.Backend._plugins["HCCL"] = dist.Backend._BackendPlugin(GlooForHccl, False)


def cpu(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [cpu(each) for each in value]
    return cpu_alias(value.detach()) if on_npu(value) else value


class GlooForHccl(dist.ProcessGroup):
    """The collectives that DDP, FSDP2 and accelerate call. What gloo lacks (mean, reduce-scatter) is made of its sum."""

    def __init__(self, store: dist.Store, rank: int, size: int, timeout: timedelta) -> None:
        super().__init__(rank, size)
        self.gloo = c10d.ProcessGroupGloo(store, rank, size, timeout)
        self.name = "default_pg"

    def getBackendName(self):  # noqa: N802 (torch's names, here and below)
        return "hccl"

    # torch asks the group itself, not a backend inside it: functional collectives and FSDP2 look it up by name
    def setGroupName(self, name):  # noqa: N802
        self.name = name

    def getGroupName(self):  # noqa: N802
        return dist.distributed_c10d._world.pg_names.get(self, self.name)

    @property
    def group_name(self):
        return self.getGroupName()

    def barrier(self, opts=None):
        return self.gloo.barrier(c10d.BarrierOptions())

    def broadcast(self, tensors, opts):
        return self.gloo.broadcast(cpu(tensors), opts)

    def allreduce(self, tensors, opts=None):
        opts = opts or c10d.AllreduceOptions()
        mean = opts.reduceOp == dist.ReduceOp.AVG
        if mean:
            opts.reduceOp = dist.ReduceOp.SUM
        work = self.gloo.allreduce(cpu(tensors), opts)
        if mean:
            work.wait()
            for tensor in cpu(tensors):
                tensor.div_(self.size())
        return work

    def allreduce_coalesced(self, tensors, opts):
        return self.gloo.allreduce_coalesced(cpu(tensors), opts)

    def reduce(self, tensors, opts):
        return self.gloo.reduce(cpu(tensors), opts)

    def allgather(self, outputs, inputs, opts=None):
        return self.gloo.allgather(cpu(outputs), cpu(inputs), opts or c10d.AllgatherOptions())

    def all_gather_single(self, output, tensor, opts=None):
        parts = list(cpu(output).view(-1).split(output.numel() // self.size()))
        return self.gloo.allgather([parts], [cpu(tensor).reshape(-1)], c10d.AllgatherOptions())

    def allgather_into_tensor_coalesced(self, outputs, tensors, opts=None):
        return [self.all_gather_single(*pair) for pair in zip(outputs, tensors, strict=True)][-1]

    def reduce_scatter_single(self, output, tensor, opts):
        total = cpu(tensor).clone()
        summed = c10d.AllreduceOptions()
        summed.reduceOp = opts.reduceOp
        work = self.allreduce([total], summed)
        work.wait()
        mine = total.reshape(-1)[self.rank() * output.numel() :][: output.numel()]
        cpu(output).view(-1).copy_(mine)
        return work

    def scatter(self, outputs, inputs, opts):
        return self.gloo.scatter(cpu(outputs), cpu(inputs), opts)

    def gather(self, outputs, inputs, opts):
        return self.gloo.gather(cpu(outputs), cpu(inputs), opts)

    # the names before torch 2.13
    _allgather_base = all_gather_single
    _reduce_scatter_base = reduce_scatter_single
