// Asks the providers of the AI SDK, of several major versions, what they call themselves in traces; prints it as JSON:
// name -> packages that say it.
import { readFile } from 'node:fs/promises';

// Whatever a provider may want to know before it makes a model. Nothing is sent.
const settings = {
  apiKey: 'none', baseURL: 'http://127.0.0.1:1/v1', resourceName: 'none', region: 'eu-west-1', project: 'none', location: 'global',
  accessKeyId: 'none', secretAccessKey: 'none', projectId: 'none', accountId: 'none',
};
const { dependencies } = JSON.parse(await readFile(new URL('package.json', import.meta.url)));
const said = {};

function note(name, from) {
  said[name] ??= [];
  if (!said[name].includes(from)) said[name].push(from);
}

// Whatever can be asked for text, vectors or an order, and names its provider.
function ask(make, from) {
  let model;
  try {
    model = make('none');
  } catch {
    return;
  }
  const isModel = ['doGenerate', 'doEmbed', 'doRerank'].some((does) => typeof model?.[does] === 'function');
  if (isModel && typeof model.provider === 'string') note(model.provider, from);
}

const places = Object.entries(dependencies).flatMap(([alias, version]) => {
  const name = /^npm:(@?[^@]+)@/.exec(version)?.[1] ?? alias;
  // Models that a cloud serves for others are told apart by its package.
  const inside = { '@ai-sdk/google-vertex': ['anthropic', 'maas', 'xai'], '@ai-sdk/amazon-bedrock': ['anthropic', 'mantle'] }[name] ?? [];
  return [[alias, name], ...inside.map((path) => [`${alias}/${path}`, `${name}/${path}`])];
});
for (const [path, name] of places) {
  let exported;
  try {
    exported = await import(path);
  } catch (error) {
    // Not every version serves every other's models.
    if (error.code !== 'ERR_PACKAGE_PATH_NOT_EXPORTED') throw error;
    continue;
  }
  for (const create of Object.keys(exported).filter((key) => /^create[A-Z]/.test(key))) {
    let provider;
    try {
      provider = exported[create](settings);
    } catch {
      continue;
    }
    if (typeof provider === 'function') ask(provider, name);
    for (const key of Object.keys(provider ?? {})) {
      // Pictures and sounds are not priced by the token.
      if (typeof provider[key] === 'function' && !/image|transcription|speech|video|realtime/i.test(key)) ask(provider[key].bind(provider), name);
    }
  }
}
process.stdout.write(JSON.stringify(said));
