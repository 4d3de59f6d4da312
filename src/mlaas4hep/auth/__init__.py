"""Who may do what: bearer tokens of OpenID providers, checked against the keys that their issuers publish.

`policy` reads who is trusted and what is asked for, `scopes` compares grants with that, `keys` holds the issuers' keys,
`tokens` verifies one token, `gate` decides and remembers. Knows no transport. Invariant: nobody is let in
whose token was not verified with a key of its issuer, and nothing of a token is kept but its hash and what it grants.
"""

from mlaas4hep.auth.gate import ANONYMOUS, Gate
from mlaas4hep.auth.policy import ACTIONS, Policy, parse_policy, read_policy
from mlaas4hep.auth.tokens import Identity

__all__ = ["ACTIONS", "ANONYMOUS", "Gate", "Identity", "Policy", "parse_policy", "read_policy"]
