"""The paths of each protocol.

`openai` has embeddings and the list of models, `openai_writing` completions and chats (`openai_forms` is common to
both); `tei` is text-embeddings-inference, with `classes` and files of pictures and sounds (`media`); `inference` is the
Open Inference Protocol v2; `operations` has the server's own paths: health, figures, the page.
"""
