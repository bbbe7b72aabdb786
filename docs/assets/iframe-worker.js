// Browsers refuse to start a Worker on a page opened from the file system. Run the search worker in an iframe there.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.onmessage = null;
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inner = this.frame.contentWindow;
      inner.document.open();
      inner.document.write(`<script>
        window.postMessage = message => parent.dispatchEvent(new MessageEvent("iframe-worker", { data: message }));
        window.importScripts = (...urls) => urls.reduce((before, url) => before.then(() => new Promise(done => {
          const script = document.createElement("script");
          script.src = url;
          script.onload = done;
          document.body.append(script);
        })), Promise.resolve());
      <\/script><body><script src="${url}"><\/script>`);
      inner.document.close();
      window.addEventListener("iframe-worker", event => this.dispatchEvent(new MessageEvent("message", event)));
      this.addEventListener("message", event => this.onmessage && this.onmessage(event));
    }
    postMessage(message) {
      const deliver = () => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data: message }));
      this.frame.contentDocument.readyState === "complete" ? deliver() : this.frame.addEventListener("load", deliver);
    }
    terminate() { this.frame.remove(); }
  };
}
