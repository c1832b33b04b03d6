// Search of a site opened from disk. Browsers refuse workers there, so the search script runs in a hidden frame instead.
// The theme asks whether `IFrameWorker` exists, and its worker looks for its own address in the first script of its frame.
if (window.location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super()
      this.waiting = []
      const frame = document.createElement("iframe")
      frame.hidden = true
      frame.srcdoc = `<script>self.postMessage = data => frameElement.answer(data)<\/script><script src="${url}"><\/script>`
      frame.answer = data => this.dispatchEvent(new MessageEvent("message", { data }))
      frame.onload = () => {
        this.inside = frame.contentWindow
        this.waiting.splice(0).forEach(data => this.postMessage(data))
      }
      document.body.append(frame)
    }
    postMessage(data) {
      if (this.inside) this.inside.dispatchEvent(new this.inside.MessageEvent("message", { data }))
      else this.waiting.push(data)
    }
  }
  window.Worker = window.IFrameWorker
}
