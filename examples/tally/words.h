#ifndef TALLY_WORDS_H
#define TALLY_WORDS_H

#include <stdio.h>

#include "table.h"

/* words_count adds the words of the stream to t. A word is a run of bytes
 * that are letters, digits or not ASCII; ASCII letters count as small ones.
 * 0, or -1 when reading or memory failed. */
int words_count(FILE *in, struct table *t);

#endif
