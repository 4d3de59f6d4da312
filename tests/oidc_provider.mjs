// A certified OpenID provider on loopback: `node oidc_provider.mjs PACKAGE PORT JWKS.json`. Machines get tokens of it
// with a name and a password; access tokens are signed JWTs for the resource that they ask for.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [, , root, port, keys] = process.argv;
const { default: Provider } = await import(pathToFileURL(root + "/lib/index.js").href);
const scopes = "compute.read compute.modify";
const provider = new Provider(`http://127.0.0.1:${port}`, {
  jwks: JSON.parse(readFileSync(keys, "utf-8")),
  clients: [{
    client_id: "robot", client_secret: "not-a-secret-at-all", grant_types: ["client_credentials"], redirect_uris: [],
    response_types: [], id_token_signed_response_alg: "ES256", scope: scopes,
  }],
  scopes: scopes.split(" "),
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (context, resource) => ({
        audience: resource, scope: scopes, accessTokenTTL: 600, accessTokenFormat: "jwt",
        jwt: { sign: { alg: "ES256" } },
      }),
    },
  },
});
provider.listen(Number(port), "127.0.0.1");
