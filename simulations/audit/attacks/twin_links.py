"""Where a run's twins lead, as figures of its audit."""

from __future__ import annotations

import numpy as np

from simulations.audit.attacks.identity_search import Search
from simulations.audit.attacks.linkage import linkage
from simulations.audit.attacks.people import TWINS, BeatFrame
from simulations.audit.attacks.twin_codes import donor_recovery, members_named
from simulations.audit.cohort import Cohort
from simulations.audit.finding import Metrics
from simulations.audit.measure import Proportion
from simulations.audit.published import PublishedNetworks


def twin_links(published: PublishedNetworks, cohort: Cohort) -> Metrics:
    """Ask whether twins lead to their source, to their person, to a donor, and to those who trained the editor.

    That twins lead to their own patient is what they are made for, so it is stated and is no verdict: they are that
    patient's data and stay on site.

    Args:
        published: the run's.
        cohort: who is a member.

    Returns:
        ``audit.twins.NAME_top1`` with interval and chance; what cannot be asked of so few people is left out.
    """
    networks, codes, twins = published.networks, published.codebook["codes"], published.twins
    frame, people = published.frame, published.frame.people
    found: Metrics = {}
    if _several(frame) >= 2:
        links = linkage(twins.median, frame.rows, people)
        for name, search in (
            ("source", links.source),
            ("source_control", links.source_control),
            ("linkage", links.another),
            ("linkage_control", links.another_control),
            ("record", links.real),
        ):
            found |= _search(name, search)
    sick = people.beats.abnormal().numpy()
    _, first = np.unique(people.owner[sick], return_index=True)
    donors = sick[first[:TWINS]]
    if len(donors) >= 2 and len(frame.content) >= 1:
        recovered = donor_recovery(networks, codes, frame.content, donors, people)
        found |= _search("donor", recovered.donor) | _search("donor_control", recovered.control)
        named = members_named(networks, codes, twins, people, cohort.member)
        found |= _proportion("audit.twins.members_top1", named.members, named.chance)
    return found


def _several(frame: BeatFrame) -> int:
    """Count the people with a twin and another usable record."""
    records = np.bincount(frame.people.owner, minlength=frame.people.count)
    return int((records[frame.people.owner[frame.rows]] > 1).sum())


def _search(name: str, search: Search) -> Metrics:
    return _proportion(f"audit.twins.{name}_top1", search.top1, search.chance1)


def _proportion(key: str, rate: Proportion, chance: float) -> Metrics:
    ends: Metrics = {f"{key}.low": rate.low, f"{key}.high": rate.high}
    return {key: rate.value, f"{key}.n": rate.trials, f"{key}.chance": chance} | ends
