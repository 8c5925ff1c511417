/* A command that speaks CGI: the request in the environment and on standard input, the reply on standard output. */

#include <stdio.h>
#include <stdlib.h>

int main(void) {
  const char *path = getenv("PATH_INFO");
  printf("content-type: text/plain\n\nHello from C! You asked for %s\n", path ? path : "/");
  return 0;
}
