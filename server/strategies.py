"""Flower's strategies, by name: the sites' states in, the federation's out.

===========  ===========================================================================================================
fedavg       mean weighted by examples (McMahan et al. 2017, *Communication-Efficient Learning of Deep Networks from
             Decentralized Data*, algorithm 1)
fedprox      the same on the server; the proximal term is in the sites' loss (Li et al. 2020)
fedadam      Adam on the mean update (Reddi et al. 2021, *Adaptive Federated Optimization*, algorithm 2)
multikrum    mean, weighted by examples, of the n - f updates nearest to their neighbours (Blanchard et al. 2017,
             *Machine Learning with Adversaries*)
trimmedmean  per weight, unweighted mean without the f largest and the f smallest (Yin et al. 2018,
             *Byzantine-Robust Distributed Learning*)
===========  ===========================================================================================================

f is ``federation.malicious``. Nothing is kept between calls: what a strategy remembers (FedAdam's moments) is a named
dict of tensors that goes in and comes out, so that a checkpoint can hold it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, FedProx, FedTrimmedAvg, MultiKrum, Strategy

from lavq_core.settings import FederationConfig
from server.flower_adapter import adam_memory, aggregate_with, fed_adam
from server.model import State


def combine(
    settings: FederationConfig,
    sent: State,
    states: Sequence[State],
    examples: Sequence[float],
    round_number: int,
    memory: State,
) -> tuple[State, State]:
    """Combine the sites' states as ``federation.strategy`` says.

    Args:
        settings: the strategy and its numbers.
        sent: what the sites started from.
        states: one a site, with the keys, shapes and dtypes of ``sent``, in an order that does not depend on arrival.
        examples: weight of each site.
        round_number: counts from 1.
        memory: what the last round's calls returned, of these states and of others; empty at first.

    Returns:
        The new state, with the dtypes of ``sent``, and the strategy's memory (empty for all but FedAdam).
    """
    match settings.strategy:
        case "fedavg":
            return average(states, examples, round_number, FedAvg()), {}
        case "fedprox":
            return average(states, examples, round_number, FedProx(proximal_mu=settings.proximal)), {}
        case "trimmedmean":
            rule = FedTrimmedAvg(beta=(settings.malicious + 0.5) / len(states))  # Flower cuts int(beta n) at each end
            return average(states, examples, round_number, rule), {}
        case "multikrum":
            return _multikrum(settings.malicious, sent, states, examples, round_number), {}
        case "fedadam":
            return _fedadam(settings.server_lr, sent, states, examples, round_number, memory)
    raise ValueError(f"unknown strategy {settings.strategy}")


def average(states: Sequence[State], examples: Sequence[float], round_number: int, rule: Strategy) -> State:
    """Let one of Flower's strategies aggregate states, weighted by ``examples``; dtypes are kept.

    All weights of one dtype are one array: Flower writes and reads each array as a file of NumPy's, which for the many
    small ones of a network took ten times as long as the sums.
    """
    contents = [
        RecordDict(
            {
                "weights": ArrayRecord(torch_state_dict=_rows(state, states[0])),
                "metrics": MetricRecord({"num-examples": count}),
            }
        )
        for state, count in zip(states, examples, strict=True)
    ]
    arrays = aggregate_with(rule, round_number, contents).array_records["arrays"]
    return _state({name: torch.from_numpy(array.numpy()) for name, array in arrays.items()}, states[0])


def _rows(state: State, form: State) -> State:
    """Join the tensors of a state in the order of ``form``: one row for each dtype that this has."""
    dtypes = sorted({str(value.dtype) for value in form.values()})
    return {
        dtype: torch.cat([state[name].flatten() for name, value in form.items() if str(value.dtype) == dtype])
        for dtype in dtypes
    }


def _state(rows: State, form: State) -> State:
    """Take rows apart again, to the names, shapes and dtypes of ``form``."""
    taken = dict.fromkeys(rows, 0)
    state = {}
    for name, value in form.items():
        dtype = str(value.dtype)
        begin = taken[dtype]
        taken[dtype] += value.numel()
        state[name] = rows[dtype][begin : taken[dtype]].reshape(value.shape).to(value.dtype, copy=True)
    return state


def _fedadam(
    lr: float, sent: State, states: Sequence[State], examples: Sequence[float], round_number: int, memory: State
) -> tuple[State, State]:
    """FedAdam, with the moments of every weight by its name: ``first.NAME`` and ``second.NAME``."""
    kinds = ("first", "second")
    remembered = {kind: {name: memory[f"{kind}.{name}"] for name in sent} for kind in kinds} if memory else {}
    rows = {
        f"{kind}.{dtype}": row for kind, moments in remembered.items() for dtype, row in _rows(moments, sent).items()
    }
    adam = fed_adam(lr, _rows(sent, sent), rows)
    combined = average(states, examples, round_number, adam)
    kept = adam_memory(adam)
    moments = {kind: _state({dtype: kept[f"{kind}.{dtype}"] for dtype in _rows(sent, sent)}, sent) for kind in kinds}
    return combined, {f"{kind}.{name}": value for kind in kinds for name, value in moments[kind].items()}


def _multikrum(
    malicious: int, sent: State, states: Sequence[State], examples: Sequence[float], round_number: int
) -> State:
    """MultiKrum on updates in float64.

    Flower takes a squared distance as a difference of squared norms: between weights, whose norms are hundreds of times
    their distances, float32 would leave little of it.
    """
    rule = MultiKrum(num_malicious_nodes=malicious, num_nodes_to_select=len(states) - malicious)
    updates = [{name: value.double() - sent[name].double() for name, value in state.items()} for state in states]
    mean = average(updates, examples, round_number, rule)
    return {name: (value.double() + mean[name]).to(value.dtype) for name, value in sent.items()}
