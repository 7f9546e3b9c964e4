"""Sentences on how a chemical acts on a protein, in the form of SciBERT's ChemProt files: text with a marked pair, label.

The first of the pair stands in << >>, the second in [[ ]], whichever is the chemical. Every name is made up, so that no
sentence says a wrong thing of a real drug; two sentences in five have a second pair, related in another way, that is not
marked. Labels: https://github.com/allenai/scibert/tree/master/data/text_classification/chemprot.
"""

from __future__ import annotations

import random

from scripts.make.pharma import names

ROWS, SEED = 1100, 17
MOST_FRUITLESS = 1000
# Kinds of proteins: E enzyme, R receptor, T transporter, G gene whose amount changes, K kinase.
PROTEINS = {"INHIBITOR": "EKT", "INDIRECT-DOWNREGULATOR": "G", "SUBSTRATE": "ET", "INDIRECT-UPREGULATOR": "G",
            "ACTIVATOR": "EK", "ANTAGONIST": "R", "PRODUCT-OF": "E", "AGONIST": "R", "DOWNREGULATOR": "GK",
            "UPREGULATOR": "GK", "SUBSTRATE_PRODUCT-OF": "E", "AGONIST-ACTIVATOR": "R", "AGONIST-INHIBITOR": "R"}  # fmt: skip
# {c} the chemical, {p} the protein, {n} a number. Common relations have more wordings, and so more rows.
WORDINGS = {
    "INHIBITOR": (
        "{c} inhibited {p} with an IC50 of {n} nM",
        "{p} was inhibited by {c} in a concentration-dependent manner",
        "{c} is a potent and selective inhibitor of {p}",
        "inhibition of {p} by {c} was reversible",
        "the activity of {p} was blocked almost completely by {n} nM {c}",
        "{c} blocked {p} at low micromolar concentrations",
        "the {p} inhibitor {c} was well tolerated at {n} mg/kg",
        "{c} suppressed the catalytic activity of {p}",
        "binding of {c} to the active site of {p} abolished its activity",
        "{p} lost {n} % of its activity in the presence of {c}",
        "{c} showed strong inhibitory activity against {p}",
        "the inhibitory effect of {c} on {p} lasted {n} h",
        "{p} was resistant to most compounds but was inhibited by {c}",
    ),
    "INDIRECT-DOWNREGULATOR": (
        "{c} decreased the expression of {p} in treated cells",
        "the mRNA of {p} fell by {n} % after {c}",
        "expression of {p} was reduced by {c} through its transcription factor",
        "{c} suppressed the transcription of {p}",
        "the release of {p} was lowered by pretreatment with {c}",
        "{c} attenuated the rise of {p} caused by endotoxin",
        "serum levels of {p} were decreased in animals given {c}",
        "{c} prevented the induction of {p} mRNA",
        "treatment with {c} reduced the secretion of {p} by {n} %",
    ),
    "SUBSTRATE": (
        "{c} is metabolised mainly by {p}",
        "{p} catalysed the hydroxylation of {c}",
        "{c} is a substrate of {p} with a Km of {n} µM",
        "the uptake of {c} by {p} was saturable",
        "{p} hydrolysed {c} at a rate of {n} nmol/min",
        "the oxidation of {c} by {p} was studied in microsomes",
        "{p} contributes to the clearance of {c}",
        "{c} was transported by {p} across the membrane",
        "glucuronidation of {c} is carried out by {p}",
    ),
    "INDIRECT-UPREGULATOR": (
        "{c} increased the expression of {p} in treated cells",
        "the mRNA of {p} rose {n}-fold after {c}",
        "expression of {p} was induced by {c} through its transcription factor",
        "{c} enhanced the transcription of {p}",
        "the release of {p} was raised by pretreatment with {c}",
        "{c} restored the level of {p} in diabetic rats",
        "serum levels of {p} were increased in animals given {c}",
        "{c} led to an accumulation of {p} mRNA",
        "treatment with {c} stimulated the secretion of {p}",
    ),
    "ACTIVATOR": (
        "{c} activated {p} with an EC50 of {n} nM",
        "{p} was activated by {c} in intact cells",
        "{c} is a direct activator of {p}",
        "activation of {p} by {c} needed calcium",
        "{c} stimulated the activity of {p} by {n} %",
        "the phosphorylation of {p} was triggered by {c}",
        "{c} enhanced the catalytic activity of {p}",
        "the {p} activator {c} prolonged the response",
    ),
    "ANTAGONIST": (
        "{c} is a competitive antagonist of {p}",
        "the {p} antagonist {c} was given at {n} mg/kg",
        "{c} antagonised {p} with a pA2 of {n}",
        "antagonism of {p} by {c} was surmountable",
        "{p} was antagonised by {c} but not by its enantiomer",
        "{c} shifted the concentration curve of {p} to the right as an antagonist does",
        "the {p} blocker and antagonist {c} reduced the contraction",
    ),
    "PRODUCT-OF": (
        "{p} catalyses the formation of {c}",
        "{c} is produced by {p} in the liver",
        "the synthesis of {c} by {p} was followed for {n} min",
        "{p} generates {c} from its precursor",
        "the production of {c} depends on {p}",
        "{c}, the product of {p}, accumulated in the medium",
        "biosynthesis of {c} is limited by {p}",
    ),
    "AGONIST": (
        "{c} is a full agonist at {p}",
        "the {p} agonist {c} was infused for {n} min",
        "{c} acted as a selective agonist of {p} with an EC50 of {n} nM",
        "responses to {c}, an agonist of {p}, were abolished",
        "{p} was stimulated with its agonist {c}",
        "{c} mimicked the natural ligand as an agonist of {p}",
        "the partial agonist {c} bound to {p} with high affinity",
    ),
    "DOWNREGULATOR": (
        "{c} downregulated {p} directly at the protein level",
        "downregulation of {p} by {c} was seen within {n} h",
        "{p} was downregulated by {c} in a direct manner",
        "{c} caused the degradation and downregulation of {p}",
        "{c} acts as a direct downregulator of {p}",
    ),
    "UPREGULATOR": (
        "{c} upregulated {p} directly at the protein level",
        "upregulation of {p} by {c} was seen within {n} h",
        "{p} was upregulated by {c} in a direct manner",
        "{c} stabilised {p} and caused its upregulation",
        "{c} acts as a direct upregulator of {p}",
    ),
    "SUBSTRATE_PRODUCT-OF": (
        "{c} is both a substrate and a product of {p}",
        "{p} forms {c} and breaks it down again",
        "{p} catalyses the reversible reaction that makes and consumes {c}",
    ),
    "AGONIST-ACTIVATOR": (
        "{c} is an agonist that activates {p}",
        "the activating agonist {c} of {p} was given at {n} mg/kg",
        "{p} was activated by the agonist {c}",
    ),
    "AGONIST-INHIBITOR": (
        "{c} is an agonist that inhibits {p}",
        "the inverse agonist {c} inhibited {p} below its basal activity",
        "{p} was inhibited by the inverse agonist {c}",
    ),
}  # fmt: skip
OPENINGS = ("", "", "", "In rat liver microsomes, ", "In HepG2 cells, ", "We found that ", "These results suggest that ",
            "At therapeutic concentrations, ", "In a cell-free assay, ", "As reported before, ", "In mice, ")  # fmt: skip
JOINS = (", whereas {}", ", while {}", "; in addition, {}", ", and {}", "; by contrast, {}")
TAILS = ("", "", "", " (P < 0.01)", ", as shown by western blot", " in all three donors", ", which agrees with docking")
LETTERS = "BDFGHKLMNQRTVXZ"


def make(rows: int, seed: int) -> list[dict]:
    """No two rows have the same text."""
    rng = random.Random(f"chemprot {seed}")
    labels = [(label, number) for label, its in WORDINGS.items() for number in range(len(its))]
    made: dict[str, dict] = {}
    for _ in range(rows * MOST_FRUITLESS):
        if len(made) == rows:
            break
        label, number = rng.choice(labels)
        text = sentence(rng, label, number)
        made.setdefault(text, {"text": text, "label": label, "metadata": [f"{label} {number}"]})
    return list(made.values())


def sentence(rng: random.Random, label: str, number: int) -> str:
    """The clause of a label's wording, marked, in two cases of five beside a clause of another label."""
    first = clause(rng, label, WORDINGS[label][number])
    chemical, protein = first[1:]
    clauses = [mark(first[0], chemical, protein)]
    if rng.random() < 0.4:
        other = rng.choice([name for name in WORDINGS if name != label])
        clauses.insert(rng.randrange(2), clause(rng, other, rng.choice(WORDINGS[other]))[0])
    whole = rng.choice(OPENINGS) + clauses[0]
    whole += "".join(rng.choice(JOINS).format(clause) for clause in clauses[1:]) + rng.choice(TAILS) + "."
    start = 3 if whole.startswith("<< ") else 0
    return whole[:start] + whole[start].upper() + whole[start + 1 :]


def clause(rng: random.Random, label: str, wording: str) -> tuple[str, str, str]:
    """A wording with made-up names in it, and the names."""
    chemical, protein = chemical_name(rng), protein_name(rng, rng.choice(PROTEINS[label]))
    return wording.format(c=chemical, p=protein, n=rng.randint(2, 90)), chemical, protein


def mark(text: str, *names: str) -> str:
    """The names in the marks, the one that stands first in << >>."""
    first, second = sorted(names, key=text.index)
    return text.replace(first, f"<< {first} >>").replace(second, f"[[ {second} ]]")


def chemical_name(rng: random.Random) -> str:
    if rng.random() < 0.3:
        return f"{rng.choice(LETTERS)}{rng.choice(LETTERS)}-{rng.randint(100, 9999)}"
    return names.drug(rng)


def protein_name(rng: random.Random, kind: str) -> str:
    name = "".join(rng.choices(LETTERS, k=3)) + str(rng.randint(1, 9))
    return {"R": f"{name} receptor", "T": f"{name} transporter", "K": f"{name} kinase"}.get(kind, name)
