// Renders openapi.json, and sends what the forms say. All addresses are relative to this page's own, so that it works
// below any prefix. Text only ever becomes text: the page's policy lets no script make markup of it.

const BASE = new URL("./", location.href);
const JSON_TYPE = "application/json";
const MULTIPART = "multipart/form-data";
const MAX_SHOWN = 100_000;

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function resolved(node, api) {
  if (Array.isArray(node)) return node.map((item) => resolved(item, api));
  if (node === null || typeof node !== "object") return node;
  if ("$ref" in node) return resolved(node.$ref.slice(2).split("/").reduce((part, key) => part[key], api), api);
  return Object.fromEntries(Object.entries(node).map(([key, value]) => [key, resolved(value, api)]));
}

function choice(values, chosen) {
  const options = values.map((value) => element("option", { value, textContent: value || "(default)" }));
  const select = element("select", {}, ...options);
  if (values.includes(chosen)) select.value = chosen;
  return select;
}

function labelled(text, input, hint = "") {
  return element("label", {}, text, input, ...(hint ? [element("small", { textContent: hint })] : []));
}

function parameterField(parameter) {
  const { schema, required } = parameter;
  const values = schema.enum ?? [];
  const input = values.length ? choice(required ? values : ["", ...values], parameter.example) : element("input");
  if (!values.length) {
    input.value = parameter.example ?? "";
    input.placeholder = schema.default ?? "";
    if (schema.pattern) input.pattern = schema.pattern;
  }
  input.required = required;
  return { parameter, input, field: labelled(`${parameter.name} (${parameter.in})`, input, parameter.description) };
}

// What the body may be: each has its fields, and gives [content, headers] when it is sent.

function jsonBody({ examples = {} }) {
  const text = element("textarea", { spellcheck: false });
  const names = choice(Object.keys(examples));
  const show = () => { text.value = JSON.stringify(examples[names.value]?.value ?? {}); };
  names.addEventListener("change", show);
  show();
  const fields = [labelled("Example", names), labelled("Body", text)];
  return { fields, make: () => [text.value, { "content-type": JSON_TYPE }] };
}

async function chosenFiles(input) {
  if (input.files.length) return [...input.files];
  const picture = await fetch(new URL("docs/heart.jpg", BASE));
  return [new File([await picture.blob()], "heart.jpg", { type: "image/jpeg" })];
}

function fileBody(type, { schema }) {
  const input = element("input", { type: "file", accept: "image/*", multiple: type === MULTIPART });
  const fields = [labelled("Picture", input, "Without a choice, a small heart is sent.")];
  const make = async () => {
    const files = await chosenFiles(input);
    if (type !== MULTIPART) return [files[0], { "content-type": files[0].type || type }];
    const form = new FormData();
    for (const file of files) form.append(Object.keys(schema.properties)[0], file);
    return [form, {}];
  };
  return { fields, make };
}

function bodyFields(requestBody) {
  const content = Object.entries(requestBody?.content ?? {});
  if (!content.length) return { fields: [], make: () => [undefined, {}] };
  const bodies = new Map(content.map(([type, media]) => [type, type === JSON_TYPE ? jsonBody(media) : fileBody(type, media)]));
  const types = choice([...bodies.keys()]);
  const groups = new Map([...bodies].map(([type, body]) => [type, element("div", {}, ...body.fields)]));
  const show = () => groups.forEach((group, type) => { group.hidden = type !== types.value; });
  types.addEventListener("change", show);
  show();
  return { fields: [labelled("Body as", types), ...groups.values()], make: () => bodies.get(types.value).make() };
}

function acceptField(operation) {
  const types = Object.keys(operation.responses["200"]?.content ?? {});
  const input = choice(types);
  return { input, fields: types.length > 1 ? [labelled("Accept", input)] : [] };
}

function address(path, parameters) {
  const filled = parameters
    .filter(({ parameter }) => parameter.in === "path")
    .reduce((text, { parameter, input }) => text.replace(`{${parameter.name}}`, encodeURIComponent(input.value)), path);
  const url = new URL(filled.slice(1), BASE);
  for (const { parameter, input } of parameters) {
    if (parameter.in === "query" && input.value) url.searchParams.set(parameter.name, input.value);
  }
  return url;
}

async function shown(response) {
  const type = response.headers.get("content-type") ?? "";
  const bytes = await response.arrayBuffer();
  if (!/json|text/.test(type)) return `${bytes.byteLength} bytes of ${type || "no stated type"}`;
  let text = new TextDecoder().decode(bytes);
  if (type.startsWith(JSON_TYPE)) text = JSON.stringify(JSON.parse(text), null, 2);
  return text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN)}\n… and ${text.length - MAX_SHOWN} characters more` : text;
}

async function send(method, path, parameters, accept, body) {
  const [content, headers] = await body.make();
  for (const { parameter, input } of parameters) {
    if (parameter.in === "header" && input.value) headers[parameter.name] = input.value;
  }
  if (accept.input.value) headers.accept = accept.input.value;
  const started = performance.now();
  const response = await fetch(address(path, parameters), { method: method.toUpperCase(), headers, body: content });
  const text = await shown(response);
  return [
    element("p", { className: response.ok ? "" : "bad" }, `${response.status} ${response.statusText}, ${Math.round(performance.now() - started)} ms`),
    element("pre", { textContent: [...response.headers].map(([name, value]) => `${name}: ${value}`).join("\n") }),
    element("pre", { textContent: text }),
  ];
}

function tryForm(method, path, operation) {
  const parameters = (operation.parameters ?? []).map(parameterField);
  const accept = acceptField(operation);
  const body = bodyFields(operation.requestBody);
  const button = element("button", { textContent: "Send" });
  const result = element("div", { ariaLive: "polite" });
  const fields = [...parameters.map(({ field }) => field), ...body.fields, ...accept.fields];
  const form = element("form", {}, ...fields, button);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      result.replaceChildren(...(await send(method, path, parameters, accept, body)));
    } catch (error) {
      result.replaceChildren(element("p", { className: "bad", textContent: `No answer: ${error.message}` }));
    } finally {
      button.disabled = false;
    }
  });
  return [form, result];
}

function section(title, value) {
  return element("details", {}, element("summary", { textContent: title }), element("pre", { textContent: value }));
}

function schemas(content) {
  const bare = Object.fromEntries(Object.entries(content ?? {}).map(([type, { schema }]) => [type, schema]));
  return JSON.stringify(bare, null, 2);
}

function renderOperation(path, method, operation) {
  const heading = element("summary", {}, element("code", {}, element("span", { className: "method" }, method.toUpperCase()), path), ` ${operation.summary}`);
  const answers = Object.entries(operation.responses).map(([status, { description }]) => `${status}  ${description}`);
  const parts = [...tryForm(method, path, operation), section("Answers", answers.join("\n"))];
  if (operation.description) parts.unshift(element("p", { className: "about", textContent: operation.description }));
  if (operation.requestBody) parts.push(section("Schema of the body", schemas(operation.requestBody.content)));
  parts.push(section("Schema of the answer", schemas(operation.responses["200"]?.content)));
  return element("details", { id: operation.operationId }, heading, ...parts);
}

function render(api) {
  document.getElementById("about").textContent = api.info.description;
  const sections = new Map();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const [tag] = operation.tags;
      if (!sections.has(tag)) sections.set(tag, [element("h2", { textContent: tag })]);
      sections.get(tag).push(renderOperation(path, method, operation));
    }
  }
  document.getElementById("operations").replaceChildren(...[...sections.values()].map((parts) => element("section", {}, ...parts)));
  document.getElementById(location.hash.slice(1) || "predict")?.setAttribute("open", "");
}

const operations = document.getElementById("operations");
try {
  const api = await (await fetch(new URL("openapi.json", BASE))).json();
  render(resolved(api, api));
} catch (error) {
  operations.replaceChildren(element("p", { className: "bad", textContent: `openapi.json could not be read: ${error.message}` }));
} finally {
  operations.removeAttribute("aria-busy");
}
