"""Made-up maintenance work orders of mobile mining equipment, in the form of MaintIE's gold release.

Type names are those of MaintIE's scheme (Bikaun et al. 2024, https://github.com/nlp-tlp/maintie); no text is taken from it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

ROWS, SEED = 1100, 31
Thing = tuple[str, str]  # words, type

MACHINES: tuple[Thing, ...] = tuple(
    (words, "PhysicalObject/DrivingObject")
    for words in ("loader", "grader", "dozer", "haul truck", "shuttle car", "drill rig", "shearer", "roadheader", "bolter",
                  "water cart", "excavator", "scraper")
)  # fmt: skip
ASSEMBLIES: tuple[Thing, ...] = (
    ("boom", "PhysicalObject/HoldingObject/StructuralSupportingObject"),
    ("gearbox", "PhysicalObject/TransformingObject/MechanicalEnergyTransformingObject"),
    ("radiator", "PhysicalObject/EmittingObject/ThermalCoolingObject"),
    ("tail drum", "PhysicalObject/GuidingObject/MechanicalEnergyGuidingObject"),
    ("cutter head", "PhysicalObject/MatterProcessingObject/GrindingAndCrushingObject"),
    ("final drive", "PhysicalObject/TransformingObject/MechanicalEnergyTransformingObject"),
    ("cabin", "PhysicalObject/HoldingObject/EnclosingObject"),
    ("engine", "PhysicalObject/DrivingObject/CombustionEngine"),
    ("transmission", "PhysicalObject/TransformingObject/MechanicalEnergyTransformingObject"),
    ("ripper", "PhysicalObject/MatterProcessingObject/ForceSeparatingObject"),
)
# Parts of two words are a kind of their last word.
PARTS: tuple[Thing, ...] = (
    ("bush", "PhysicalObject/HoldingObject/JointingObject"),
    ("pin", "PhysicalObject/HoldingObject/FasteningObject"),
    ("seal", "PhysicalObject/CoveringObject/InfillingObject"),
    ("bearing", "PhysicalObject/HoldingObject/JointingObject"),
    ("fan belt", "PhysicalObject/GuidingObject/MechanicalEnergyGuidingObject"),
    ("lift cylinder", "PhysicalObject/DrivingObject/FluidPoweredDrivingObject"),
    ("steering pump", "PhysicalObject/GeneratingObject/LiquidFlowGeneratingObject"),
    ("drain hose", "PhysicalObject/GuidingObject/ClosedEnclosureGuidingObject"),
    ("work light", "PhysicalObject/EmittingObject/LightObject"),
    ("park brake", "PhysicalObject/RestrictingObject/MovementRestrictingObject"),
    ("mudguard", "PhysicalObject/ProtectingObject/WearProtectingObject"),
    ("door latch", "PhysicalObject/ControllingObject/SpaceAccessObject"),
    ("level sensor", "PhysicalObject/SensingObject/LevelSensingObject"),
    ("solenoid", "PhysicalObject/ControllingObject/MechanicalMovementControllingObject"),
    ("wiring loom", "PhysicalObject/GuidingObject/ElectricEnergyGuidingObject"),
    ("alternator", "PhysicalObject/GeneratingObject/MechanicalToElectricalEnergyGeneratingObject"),
    ("handrail", "PhysicalObject/HoldingObject/StructuralSupportingObject"),
    ("pick holder", "PhysicalObject/HoldingObject/PositioningObject"),
    ("idler", "PhysicalObject/GuidingObject/MechanicalEnergyGuidingObject"),
    ("air filter", "PhysicalObject/MatterProcessingObject/MechanicalSeparatingObject"),
)
VESSELS: tuple[Thing, ...] = (
    ("tank", "PhysicalObject/StoringObject/EnclosedStationaryStoringObject"),
    ("sump", "PhysicalObject/StoringObject/EnclosedStationaryStoringObject"),
    ("return line", "PhysicalObject/GuidingObject/ClosedEnclosureGuidingObject"),
    ("manifold", "PhysicalObject/GuidingObject/ClosedEnclosureGuidingObject"),
)
SUBSTANCES: tuple[Thing, ...] = tuple(
    (words, "PhysicalObject/Substance/Liquid")
    for words in ("diesel", "coolant", "emulsion", "grease", "gear oil", "water")
)
ACTIVITIES: tuple[Thing, ...] = (
    ("replace", "Activity/MaintenanceActivity/Replace"),
    ("swap", "Activity/MaintenanceActivity/Replace"),
    ("repair", "Activity/MaintenanceActivity/Repair"),
    ("weld up", "Activity/MaintenanceActivity/Repair"),
    ("inspect", "Activity/MaintenanceActivity/Inspect"),
    ("adjust", "Activity/MaintenanceActivity/Adjust"),
    ("lubricate", "Activity/MaintenanceActivity/Service"),
    ("troubleshoot", "Activity/MaintenanceActivity/Diagnose"),
    ("take off", "Activity/SupportingActivity/Move"),
    ("refit", "Activity/SupportingActivity/Assemble"),
)
STATES: tuple[Thing, ...] = (
    ("cracked", "State/UndesirableState/DegradedState"),
    ("bent", "State/UndesirableState/DegradedState"),
    ("worn", "State/UndesirableState/DegradedState"),
    ("loose", "State/UndesirableState/DegradedState"),
    ("seized", "State/UndesirableState/FailedState"),
    ("broken", "State/UndesirableState/FailedState"),
    ("will not move", "State/UndesirableState/FailedState"),
    ("missing", "State/UndesirableState"),
)
PROCESSES: tuple[Thing, ...] = tuple(
    (words, "Process/UndesirableProcess") for words in ("overheating", "vibrating", "squealing", "slipping", "rubbing")
)
LEAKS: tuple[Thing, ...] = tuple((words, "Process/UndesirableProcess") for words in ("leak", "leaking", "weeping"))
PROPERTIES: tuple[Thing, ...] = tuple(
    (words, "Property/UndesirableProperty")
    for words in ("low pressure", "high temperature", "excess play", "poor alignment")
)
PATIENT, AGENT = "hasParticipant/hasPatient", "hasParticipant/hasAgent"
PLACES = ("left hand", "right hand", "front", "rear", "upper", "position <num>", "")


class Order:
    """A text built word by word, with what it names and what has to do with what."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.entities: list[dict] = []
        self.relations: list[dict] = []

    def say(self, words: str) -> None:
        self.tokens += words.split()

    def name(self, thing: Thing) -> int:
        """Says a thing; a part of two words is also one of its last word's kind, as MaintIE has it. Its place."""
        start = len(self.tokens)
        self.say(thing[0])
        end = len(self.tokens)
        self.entities.append({"start": start, "end": end, "type": thing[1]})
        place = len(self.entities) - 1
        if thing in PARTS and end - start == 2:
            self.entities.append({"start": end - 1, "end": end, "type": thing[1]})
            self.relate(place, place + 1, "isA")
        return place

    def relate(self, head: int, tail: int, kind: str) -> None:
        self.relations.append({"head": head, "tail": tail, "type": kind})


def do_part(order: Order, draw: Callable[[Sequence[Thing]], Thing], place: str) -> None:
    """replace left hand bearing on tail drum"""
    activity = order.name(draw(ACTIVITIES))
    order.say(place)
    part = order.name(draw(PARTS))
    order.say("on")
    whole = order.name(draw(ASSEMBLIES))
    order.relate(activity, part, PATIENT)
    order.relate(whole, part, "hasPart")


def do_bad_part(order: Order, draw: Callable[[Sequence[Thing]], Thing], place: str) -> None:
    """swap cracked loader handrail"""
    activity = order.name(draw(ACTIVITIES))
    state = order.name(draw(STATES[:6]))
    whole = order.name(draw(MACHINES))
    order.say(place)
    part = order.name(draw(PARTS))
    order.relate(activity, part, PATIENT)
    order.relate(state, part, PATIENT)
    order.relate(whole, part, "hasPart")


def part_is(order: Order, draw: Callable[[Sequence[Thing]], Thing], place: str) -> None:
    """gearbox bearing rear seized"""
    whole = order.name(draw(ASSEMBLIES))
    order.say(place)
    part = order.name(draw(PARTS))
    state = order.name(draw(STATES))
    order.relate(whole, part, "hasPart")
    order.relate(state, part, PATIENT)


def part_does(order: Order, draw: Callable[[Sequence[Thing]], Thing], place: str) -> None:
    """front idler of dozer squealing, inspect"""
    order.say(place)
    part = order.name(draw(PARTS))
    order.say("of")
    whole = order.name(draw(MACHINES))
    process = order.name(draw(PROCESSES))
    order.say(",")
    activity = order.name(draw(ACTIVITIES))
    order.relate(whole, part, "hasPart")
    order.relate(process, part, AGENT)
    order.relate(activity, part, PATIENT)


def leak(order: Order, draw: Callable[[Sequence[Thing]], Thing], place: str) -> None:
    """coolant weeping from upper tank"""
    substance = order.name(draw(SUBSTANCES))
    process = order.name(draw(LEAKS))
    order.say(f"from {place}")
    vessel = order.name(draw(VESSELS))
    order.relate(process, substance, PATIENT)
    order.relate(process, vessel, AGENT)
    order.relate(vessel, substance, "contains")


def has_property(order: Order, draw: Callable[[Sequence[Thing]], Thing], place: str) -> None:
    """troubleshoot excess play in rear bush"""
    activity = order.name(draw(ACTIVITIES[4:8]))
    quality = order.name(draw(PROPERTIES))
    order.say(f"in {place}")
    part = order.name(draw(PARTS))
    order.relate(activity, quality, PATIENT)
    order.relate(part, quality, "hasProperty")


def do_machine(order: Order, draw: Callable[[Sequence[Thing]], Thing], place: str) -> None:
    """inspect shuttle car transmission"""
    activity = order.name(draw(ACTIVITIES))
    whole = order.name(draw(MACHINES))
    order.say(place)
    part = order.name(draw(ASSEMBLIES))
    order.relate(activity, part, PATIENT)
    order.relate(whole, part, "hasPart")


KINDS = (do_part, do_bad_part, part_is, part_does, leak, has_property, do_machine, do_part, part_is)


def make(rows: int, seed: int) -> list[dict]:
    """Orders no two of which have the same text; kinds take turns."""
    rng = random.Random(seed)
    made: dict[str, dict] = {}
    while len(made) < rows:
        order = Order()
        order.say(rng.choice(("<id>", "<id>", "<id> -", "")))
        KINDS[len(made) % len(KINDS)](order, rng.choice, rng.choice(PLACES))
        text = " ".join(order.tokens)
        made.setdefault(
            text, {"text": text, "tokens": order.tokens, "entities": order.entities, "relations": order.relations}
        )
    return list(made.values())
