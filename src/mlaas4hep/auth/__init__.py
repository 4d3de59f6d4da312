"""Who may do what: bearer tokens of OpenID providers, checked against the keys that their issuers publish.

`policy` reads who is trusted and what is asked for, `scopes` compares grants with that, `keys` holds the issuers' keys,
`tokens` verifies one token, `gate` decides and remembers. Knows no transport; needs the extra ``auth``, but for reading
the policy. Invariant: nobody is let in whose token was not verified with a key of its issuer, and nothing of a token is
kept but its hash and what it grants.
"""

from mlaas4hep.auth.policy import ACTIONS, Policy, parse_policy, read_policy

__all__ = ["ACTIONS", "Policy", "parse_policy", "read_policy"]
