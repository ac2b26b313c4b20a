// Ask about a picture, and see whether the answer may be relied on. Text from elsewhere is only ever set as text.

const at = (id) => document.getElementById(id);
const state = { picture: null, points: [], model: null, camera: null, asking: null };

// -- the server ---------------------------------------------------------------------------------------------------------

const fragment = new URLSearchParams(location.hash.slice(1));
if (fragment.has("token")) {
  sessionStorage.setItem("token", fragment.get("token"));
  history.replaceState(null, "", location.pathname);
}

function headers() {
  const token = sessionStorage.getItem("token");
  return token ? { Authorization: `Bearer ${token}` } : {};
}

async function failure(response) {
  if (response.status === 401) {
    at("token-form").hidden = false;
    at("token").focus();
  }
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered with status ${response.status}`;
  }
}

async function wake() {
  for (;;) {
    try {
      const response = await fetch("v1/models", { headers: headers() });
      if (response.ok) return meet((await response.json()).data[0]);
      if (response.status !== 503) {
        at("model").textContent = "";
        problem(await failure(response));
        return;
      }
      at("model").textContent = "the model is being loaded …";
    } catch {
      at("model").textContent = "the server does not answer; trying again …";
    }
    await new Promise((again) => setTimeout(again, 1000));
  }
}

function meet(model) {
  state.model = model;
  at("model").textContent = model.edge_vqa.description ? `${model.id}: ${model.edge_vqa.description}` : model.id;
  state.points = model.edge_vqa.operating_points;
  problem("");
  at("token-form").hidden = true;
  if (!state.points.length) return;
  const slider = at("slider");
  slider.max = state.points.length - 1;
  slider.value = Math.max(0, state.points.findIndex((point) => point.default));
  at("risk").hidden = false;
  price();
}

function price() {
  const point = state.points[at("slider").value];
  const share = (value) => `${Math.round(100 * value)} in 100`;
  const text = point.threshold === null
    ? `${share(point.risk)} at most: no question can be answered.`
    : `${share(point.risk)} at most. About ${share(point.coverage)} questions get an answer.`;
  at("cost").textContent = text;
  at("slider").setAttribute("aria-valuetext", text);
}

// -- the picture --------------------------------------------------------------------------------------------------------

function problem(text) {
  at("problem").textContent = text;
}

function show(file) {
  if (!file) return;
  closeCamera();
  state.picture = read(file);
  state.picture.then((address) => {
    const image = at("shown");
    image.onerror = () => { image.hidden = true; };  // a format that the browser does not know, and the server may
    image.src = address;
    image.alt = `The picture that you ask about: ${file.name || "from the clipboard or the camera"}`;
    image.hidden = false;
  }, (error) => problem(error.message));
  at("hint").textContent = file.name || "a picture";
  at("drop").classList.add("full");
  at("answers").replaceChildren();
  problem("");
  at("question").focus();
}

function read(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(new Error("this file cannot be read"));
    reader.readAsDataURL(file);
  });
}

async function openCamera() {
  if (!navigator.mediaDevices?.getUserMedia) {  // pages without https get none; a phone's file dialog has its own
    at("capture").click();
    return;
  }
  try {
    state.camera = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    problem("the camera cannot be used: allow it, or choose a file");
    return;
  }
  const video = at("viewfinder");
  video.srcObject = state.camera;
  video.hidden = at("snap").hidden = false;
  at("shown").hidden = true;
  await video.play();
  at("snap").focus();
}

function closeCamera() {
  state.camera?.getTracks().forEach((track) => track.stop());
  state.camera = null;
  at("viewfinder").hidden = at("snap").hidden = true;
}

function snap() {
  const video = at("viewfinder");
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob(show, "image/jpeg", 0.95);
}

// -- questions ----------------------------------------------------------------------------------------------------------

async function ask(question) {
  const url = await state.picture;
  const entry = at("entry").content.firstElementChild.cloneNode(true);
  entry.querySelector(".asked").textContent = question;
  entry.querySelector(".verdict").textContent = "not decided yet …";
  entry.classList.add("provisional");
  entry.setAttribute("aria-busy", "true");
  at("answers").prepend(entry);
  const content = [{ type: "text", text: question }, { type: "image_url", image_url: { url } }];
  const body = { model: state.model?.id, messages: [{ role: "user", content }], stream: true, provisional: true, show_candidate: true };
  if (state.points.length) body.risk = state.points[at("slider").value].risk;
  try {
    const response = await fetch("v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json", ...headers() },
      body: JSON.stringify(body),
      signal: state.asking.signal,
    });
    if (!response.ok) throw new Error(await failure(response));
    await tell(entry, events(response.body));
  } catch (error) {
    entry.remove();
    if (error.name !== "AbortError") throw error;
  } finally {
    entry.removeAttribute("aria-busy");
  }
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (part.startsWith("data: ") && part !== "data: [DONE]") yield JSON.parse(part.slice(6));
    }
  }
}

async function tell(entry, chunks) {
  const said = entry.querySelector(".said");
  let answer = "";
  for await (const chunk of chunks) {
    if (chunk.error) throw new Error(chunk.error.message);
    const more = chunk.edge_vqa ?? {};
    answer += chunk.choices[0]?.delta.content ?? "";
    if (more.provisional) said.textContent += more.provisional;
    if (more.verdict) judge(entry, answer, more);
  }
}

function judge(entry, answer, verdict) {
  entry.classList.remove("provisional");
  entry.classList.toggle("abstained", verdict.abstained);
  const said = verdict.abstained ? "Not answered" : answer;
  entry.querySelector(".said").textContent = said;
  entry.querySelector(".verdict").textContent = verdict.verdict.replace(/^not answered: /, "");
  const scale = entry.querySelector(".scale");
  scale.hidden = false;
  scale.querySelector(".sure").style.width = `${100 * verdict.confidence}%`;
  scale.querySelector(".limit").hidden = verdict.threshold === null;
  scale.querySelector(".limit").style.left = `${100 * (verdict.threshold ?? 0)}%`;
  scale.setAttribute("aria-valuenow", verdict.confidence.toFixed(2));
  const limit = verdict.threshold === null ? "" : `, answers from ${verdict.threshold.toFixed(2)}`;
  scale.setAttribute("aria-label", `confidence ${verdict.confidence.toFixed(2)}${limit}`);
  if (verdict.abstained && verdict.candidate) {
    entry.querySelector(".guess").hidden = false;
    entry.querySelector(".guess p").textContent = verdict.candidate;
  }
  if (at("aloud").checked) {
    speechSynthesis.cancel();
    speechSynthesis.speak(new SpeechSynthesisUtterance(said));
  }
}

async function submit(event) {
  event.preventDefault();
  const question = at("question").value.trim();
  if (!state.picture) return problem("choose a picture first");
  if (!question) return problem("type a question first");
  if (!state.model) return problem("the model is not there yet");
  problem("");
  state.asking?.abort();
  const asking = state.asking = new AbortController();
  at("question").select();
  try {
    await ask(question);
  } catch (error) {
    problem(error instanceof TypeError ? "the server does not answer" : error.message);
  }
  if (state.asking === asking) state.asking = null;
}

// -- what the page reacts to --------------------------------------------------------------------------------------------

at("form").addEventListener("submit", submit);
at("slider").addEventListener("input", price);
at("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", at("token").value);
  wake();
});
for (const id of ["file", "capture"]) {
  at(id).addEventListener("change", (event) => { show(event.target.files[0]); event.target.value = ""; });
}
at("camera").addEventListener("click", openCamera);
at("snap").addEventListener("click", snap);
const drop = at("drop");
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  show(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => { if (event.clipboardData.files.length) show(event.clipboardData.files[0]); });
if ("speechSynthesis" in window) at("aloud-label").hidden = false;
wake();
