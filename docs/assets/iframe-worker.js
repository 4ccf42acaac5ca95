/* The search of these pages runs in a worker, and browsers start none for pages that are opened from disk. There a
   hidden frame stands in for it: it loads the worker's script and passes messages both ways. The theme looks for this
   class by its name. */
window.IFrameWorker = class extends EventTarget {
  constructor(url) {
    super()
    const frame = document.createElement("iframe")
    frame.hidden = true
    document.body.appendChild(frame)
    this.inside = frame.contentWindow
    this.loaded = new Promise(done => { this.done = done })
    // What a worker's script finds: its own name, postMessage to the page, importScripts (here a promise).
    this.inside.postMessage = data => {
      const message = new MessageEvent("message", { data })
      this.dispatchEvent(message)
      if (this.onmessage) this.onmessage(message)
    }
    this.inside.importScripts = (...urls) =>
      urls.reduce((before, each) => before.then(() => this.load(each)), Promise.resolve())
    this.load(new URL(url, location)).then(this.done)
  }

  load(url) {
    return new Promise((loaded, failed) => {
      const script = this.inside.document.createElement("script")
      script.src = url
      script.onload = loaded
      script.onerror = failed
      this.inside.document.body.appendChild(script)
    })
  }

  postMessage(data) {
    this.loaded.then(() => this.inside.dispatchEvent(new this.inside.MessageEvent("message", { data })))
  }

  terminate() {
    this.inside.frameElement.remove()
  }
}

if (location.protocol === "file:") window.Worker = window.IFrameWorker
