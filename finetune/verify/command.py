"""`finetune verify URL|DIR`: gather evidence, judge it, say it to people and, as JSON, to pipelines."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finetune.errors import GateError, RecipeError
from finetune.told import tell
from finetune.verify.check import FAIL, Check, Limits
from finetune.verify.checks import judge
from finetune.verify.evidence import Evidence, Heard, Served, gather
from finetune.verify.golden import FACTS, SAMPLES, Facts, Golden, read_facts, read_golden
from finetune.verify.measure import speed

MANIFEST = "MANIFEST.json"
SHOWN = 3  # answers that differ, in the lines for people; all of them are in the JSON


def verify_command(options: argparse.Namespace) -> list[str]:
    """The report of a server or of a bundle's folder, a line each.

    Raises:
        RecipeError: a wrong argument, a bundle without golden samples, no server at the address, no such model.
        GateError: a check failed; the report is its text.
    """
    limits = _limits(options)
    is_url = options.server.startswith(("http://", "https://"))
    if is_url and options.bundle is None:
        raise RecipeError("--bundle: needed with a URL: the bundle whose golden samples are asked")
    bundle = options.bundle if options.bundle is not None else Path(options.server)
    if not bundle.is_dir():
        hint = "" if options.bundle else "; a URL begins with http:// or https://"
        raise RecipeError(f"{'--bundle' if options.bundle else 'server'}: no such folder: {bundle}{hint}")
    rewards = _rewards(bundle)
    if rewards and is_url:
        raise RecipeError(
            f"{bundle}: a reward model ({', '.join(rewards)}) gives no answers, so it has no golden samples to ask a server "
            "for; `finetune verify` of the folder checks its files"
        )
    if rewards:
        return _reward_folder(bundle, rewards, options.json)
    if not (bundle / FACTS).is_file() and (bundle / MANIFEST).is_file():
        raise RecipeError(
            f"{bundle}: no {FACTS} in it: no golden samples to ask. A run of plain text has no answers; what was "
            "proved of it is in MANIFEST.json (merge_proof)"
        )
    facts, goldens = read_facts(bundle / FACTS), read_golden(bundle / SAMPLES)[: options.samples]
    checks, evidence, who = (_server if is_url else _folder)(options, facts, goldens, limits)
    tell(options.json, report(who, facts, checks, evidence))
    lines = report_lines(who, facts, checks, evidence)
    if any(check.status == FAIL for check in checks):
        raise GateError("\n".join(lines))
    return lines


def _rewards(bundle: Path) -> list[str]:
    """Names of a reward model's outputs, by the bundle's manifest."""
    from finetune.export.facts import read_json

    return list(read_json(bundle / MANIFEST).get("rewards") or ())


def _reward_folder(bundle: Path, rewards: Sequence[str], json: str | None) -> list[str]:
    """Of a reward model on disk only the files can be checked."""
    from finetune.verify.folder import check_files

    files = check_files(bundle)
    passed = files.status != FAIL
    tell(json, {"name": bundle.name, "server": str(bundle), "passed": passed, "checks": [asdict(files)], "samples": []})
    lines = [
        f"verify {bundle}: a reward model ({', '.join(rewards)})",
        f"{files.status}  {files.name}  {files.message}",
    ]
    if files.status == FAIL:
        raise GateError("\n".join([*lines, f"do: {files.fix}", "verify stopped: files"]))
    return [*lines, "no golden samples: it gives no answers; MANIFEST.json has the proof of its rewards (merge_proof)"]


def _server(
    options: argparse.Namespace, facts: Facts, goldens: Sequence[Golden], limits: Limits
) -> tuple[list[Check], Evidence, str]:
    from finetune.verify.client import Server

    logprobs = any(golden.logprobs for golden in goldens)
    server = Server(options.server, options.model, _key(options.api_key_file), options.timeout, logprobs)
    try:
        evidence = gather(server, facts, goldens, options.concurrency)
    finally:
        server.close()
    return judge(evidence, limits), evidence, f"{server.where}, model {server.model} ({server.engine})"


def _folder(
    options: argparse.Namespace, facts: Facts, goldens: Sequence[Golden], limits: Limits
) -> tuple[list[Check], Evidence, str]:
    from finetune import device

    device.quiet_libraries()
    from finetune.verify.folder import Folder, check_files

    place = Path(options.server)
    files = check_files(place)
    served: Served
    try:
        served = Folder(place, options.trust_remote_code)
    except RecipeError as error:
        if files.status != FAIL:
            raise
        heard = [Heard(golden, error=str(error)) for golden in goldens]
        return [files, *judge(Evidence(facts, heard), limits)], Evidence(facts, heard), str(place)
    evidence = gather(served, facts, goldens, 1)
    return [files, *judge(evidence, limits)], evidence, f"{place} (transformers)"


def report_lines(who: str, facts: Facts, checks: Sequence[Check], evidence: Evidence) -> list[str]:
    """A line for each check, what to do under each failure, and the first answers that differ."""
    failed = [check.name for check in checks if check.status == FAIL]
    width = max(len(check.name) for check in checks)
    lines = [f"verify {facts.name}: {who}"]
    for check in checks:
        status = "FAIL" if check.status == FAIL else check.status
        lines.append(f"{status:<7}  {check.name:<{width}}  {check.message}")
        lines += [f"{'':<{width + 11}}do: {check.fix}"] if check.fix else []
    differing = [heard for heard in evidence.heard if heard.reply and not heard.exact] if failed else []
    for heard in differing[:SHOWN]:
        assert heard.reply
        lines += [f"{heard.golden.where}: wanted {heard.golden.answer!r}", f"  got {heard.reply.text!r}"]
    verdict = f"verify stopped: {', '.join(failed)}" if failed else "verified: this is the model that was evaluated"
    return [*lines, verdict]


def report(who: str, facts: Facts, checks: Sequence[Check], evidence: Evidence) -> dict[str, Any]:
    """The same for pipelines, with every sample."""
    return {
        "name": facts.name,
        "server": who,
        "passed": all(check.status != FAIL for check in checks),
        "checks": [asdict(check) for check in checks],
        "latency": speed([h.reply for h in evidence.heard]) if any(h.reply for h in evidence.heard) else None,
        "samples": [
            {
                "where": heard.golden.where,
                "golden": heard.golden.answer,
                "served": heard.reply.text if heard.reply else None,
                "finish_reason": heard.reply.reason if heard.reply else None,
                "seconds": heard.reply.seconds if heard.reply else None,
                "error": heard.error or None,
                "by_ids": heard.raw.text if heard.raw else None,
            }
            for heard in evidence.heard
        ],
    }


def _limits(options: argparse.Namespace) -> Limits:
    """Raises RecipeError for numbers that make no sense, all of them."""
    shares = {"--tolerance": options.tolerance, "--divergence": options.divergence, "--exact": options.exact}
    others = {
        "--timeout": options.timeout,
        "--first-token": options.first_token,
        "--tokens-per-second": options.tokens_per_second,
    }
    problems = [
        f"{k}: a number from 0 to 1 is needed, got {v:g}"
        for k, v in shares.items()
        if v is not None and not 0 <= v <= 1
    ]
    problems += [
        f"{k}: a number above 0 is needed, got {v:g}" for k, v in others.items() if v is not None and not v > 0
    ]
    if problems:
        raise RecipeError(problems)
    return Limits(options.tolerance, options.divergence, options.exact, options.first_token, options.tokens_per_second)


def _key(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"--api-key-file: {file}: can't be read: {getattr(error, 'strerror', error)}") from None
    if not key or not key.isascii() or len(key.split()) != 1:
        raise RecipeError(f"--api-key-file: {file}: one line with the key is needed")
    return key
