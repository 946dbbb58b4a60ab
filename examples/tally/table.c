#include "table.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct slot {
	char *key;
	size_t n;
	unsigned long count;
};

struct table {
	struct slot *slots;
	size_t cap; /* a power of two */
	size_t len;
};

static uint64_t hash(const char *key, size_t n)
{
	uint64_t h = 14695981039346656037ull; /* FNV-1a */
	for (size_t i = 0; i < n; i++)
		h = (h ^ (unsigned char)key[i]) * 1099511628211ull;
	return h;
}

struct table *table_new(void)
{
	struct table *t = malloc(sizeof *t);
	if (!t)
		return NULL;
	t->cap = 64;
	t->len = 0;
	t->slots = calloc(t->cap, sizeof *t->slots);
	if (!t->slots) {
		free(t);
		return NULL;
	}
	return t;
}

void table_free(struct table *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < t->cap; i++)
		free(t->slots[i].key);
	free(t->slots);
	free(t);
}

/* find is the slot of key, or the empty one where it belongs. */
static struct slot *find(struct slot *slots, size_t cap, const char *key, size_t n)
{
	size_t i = hash(key, n) & (cap - 1);
	while (slots[i].key && (slots[i].n != n || memcmp(slots[i].key, key, n) != 0))
		i = (i + 1) & (cap - 1);
	return &slots[i];
}

static int grow(struct table *t)
{
	size_t cap = t->cap * 2;
	struct slot *slots = calloc(cap, sizeof *slots);
	if (!slots)
		return -1;
	for (size_t i = 0; i < t->cap; i++)
		if (t->slots[i].key)
			*find(slots, cap, t->slots[i].key, t->slots[i].n) = t->slots[i];
	free(t->slots);
	t->slots = slots;
	t->cap = cap;
	return 0;
}

int table_add(struct table *t, const char *key, size_t n)
{
	struct slot *s = find(t->slots, t->cap, key, n);
	if (s->key) {
		s->count++;
		return 0;
	}
	if (4 * (t->len + 1) > 3 * t->cap) {
		if (grow(t) != 0)
			return -1;
		s = find(t->slots, t->cap, key, n);
	}
	s->key = malloc(n + 1);
	if (!s->key)
		return -1;
	memcpy(s->key, key, n);
	s->key[n] = '\0';
	s->n = n;
	s->count = 1;
	t->len++;
	return 0;
}

unsigned long table_get(const struct table *t, const char *key, size_t n)
{
	const struct slot *s = find(t->slots, t->cap, key, n);
	return s->key ? s->count : 0;
}

size_t table_len(const struct table *t)
{
	return t->len;
}

static int by_count(const void *a, const void *b)
{
	const struct entry *x = a, *y = b;
	if (x->count != y->count)
		return x->count < y->count ? 1 : -1;
	return strcmp(x->key, y->key);
}

struct entry *table_sorted(const struct table *t)
{
	struct entry *out = malloc((t->len ? t->len : 1) * sizeof *out);
	if (!out)
		return NULL;
	size_t n = 0;
	for (size_t i = 0; i < t->cap; i++)
		if (t->slots[i].key)
			out[n++] = (struct entry){t->slots[i].key, t->slots[i].count};
	qsort(out, n, sizeof *out, by_count);
	return out;
}
