/* A handler in C, without generated bindings: the canonical ABI of hello.wit by hand. Linked, it is a core module with
   embedded WIT, which the platform makes a component of. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define IMPORT(module, name) __attribute__((import_module(module), import_name(name))) extern
#define HTTP "wasi:http/types@0.2.0"
#define STREAMS "wasi:io/streams@0.2.0"

IMPORT(HTTP, "[constructor]fields") int32_t fields_new(void);
IMPORT(HTTP, "[constructor]outgoing-response") int32_t response_new(int32_t fields);
IMPORT(HTTP, "[method]outgoing-response.body") void response_body(int32_t response, int32_t *result);
IMPORT(HTTP, "[static]response-outparam.set")
void outparam_set(int32_t outparam, int32_t is_error, int32_t response, int32_t, int64_t, int32_t, int32_t, int32_t, int32_t);
IMPORT(HTTP, "[method]outgoing-body.write") void body_write(int32_t body, int32_t *result);
IMPORT(HTTP, "[static]outgoing-body.finish") void body_finish(int32_t body, int32_t has_trailers, int32_t trailers, int64_t *result);
IMPORT(HTTP, "[resource-drop]incoming-request") void request_drop(int32_t request);
IMPORT(STREAMS, "[method]output-stream.blocking-write-and-flush")
void stream_write(int32_t stream, const char *bytes, int32_t length, int32_t *result);
IMPORT(STREAMS, "[resource-drop]output-stream") void stream_drop(int32_t stream);

/* The host asks for memory to put strings and lists in. */
__attribute__((export_name("cabi_realloc"))) void *cabi_realloc(void *old, size_t old_size, size_t alignment, size_t size) {
  (void)old_size;
  (void)alignment;
  void *memory = realloc(old, size);
  if (!memory)
    abort();
  return memory;
}

__attribute__((export_name("wasi:http/incoming-handler@0.2.0#handle"))) void handle(int32_t request, int32_t outparam) {
  static const char text[] = "Hello from C!\n";
  int32_t body[2], stream[2], written[3];
  int64_t finished[5];
  request_drop(request);
  int32_t response = response_new(fields_new());
  response_body(response, body);
  outparam_set(outparam, 0, response, 0, 0, 0, 0, 0, 0);
  body_write(body[1], stream);
  stream_write(stream[1], text, strlen(text), written);
  stream_drop(stream[1]);
  body_finish(body[1], 0, 0, finished);
}
