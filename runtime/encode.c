/* Text to tokens: user (and control) tokens are cut out, what lies between is cut into pieces by the
 * pre-tokenizer, and each piece is merged, from its bytes or (type "spm") its characters.
 *
 * Invariant: the bytes of the tokens appended for a text are the text itself (where the tokenizer normalises:
 * its NFC; with spaces for U+2581 and one in front, of the type "spm"), but for bytes that no token expresses. The time is O(n log n) in the length of the longest piece, whatever the text. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>
#include "runtime/tokenizer_impl.h"

/* White space as Unicode defines it; PCRE2's \s has U+180E too, which the tokenizers' own engines skip. */
#define S     "\\t-\\r\\x{85}\\p{Z}"
#define SPACE "[" S "]"
#define INK   "[^" S "]"
#define PUNCT "[^" S "\\p{L}\\p{N}]"

#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?" PUNCT "+|" SPACE "+(?!" INK ")"
/* Llama 3 and Qwen 2 differ in how many digits make a piece. */
#define LLAMA3(digits)                                                                                       \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?" PUNCT "+[\\r\\n]*"            \
    "|" SPACE "*[\\r\\n]+|" SPACE "+(?!" INK ")"

/* The last alternative of the published patterns, \s+, is left out: what no alternative matches is a gap, and
 * so a piece, too. */
static const syl_pre_tokenizer pre_tokenizers[] = {
    {"default", false, false, {"[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
    {"gpt-2", false, false, {GPT2}},
    {"llama-bpe", false, true, {LLAMA3("\\p{N}{1,3}")}},
    {"qwen2", false, false, {LLAMA3("\\p{N}")}},
    {"smollm", false, false, {"\\p{N}", GPT2}},
    {"spaces", true, false, {" [^ ]*"}}, /* a piece begins with a space and has no other */
    {"whole", true, false, {" +[^ ]*"}}, /* only where no merge could cross a cut: see index_pieces */
};
enum { n_pre_tokenizers = sizeof pre_tokenizers / sizeof *pre_tokenizers };

syl_status syl_tokenizer_prepare_split(syl_tokenizer *t, const char *pre, syl_loc loc, syl_diag *diag) {
    for (int i = 0; i < n_pre_tokenizers; i++)
        if (pre_tokenizers[i].spm == t->spm && strcmp(pre_tokenizers[i].name, pre) == 0)
            t->pre = &pre_tokenizers[i];
    if (!t->pre) {
        syl_text known = {.arena = &t->arena};
        for (int i = 0; i < n_pre_tokenizers; i++)
            if (pre_tokenizers[i].spm == t->spm)
                syl_text_printf(&known, "%s'%s'", known.n ? ", " : "", pre_tokenizers[i].name);
        return syl_error(diag, SYL_ERR_tokenizer_pre, loc, "unknown pre-tokenizer '%s', expected one of %s",
                         pre, known.p);
    }
    for (int i = 0; t->pre->patterns[i]; i++) {
        int code;
        PCRE2_SIZE at;
        t->stages[i] = pcre2_compile((PCRE2_SPTR)t->pre->patterns[i], PCRE2_ZERO_TERMINATED,
                                     PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
        if (!t->stages[i])
            return syl_error(diag, SYL_ERR_internal, loc,
                             "the pattern of pre-tokenizer '%s' fails at %zu with PCRE2 error %d", pre,
                             (size_t)at, code);
        /* Where this fails, the interpreter gives the same matches. */
        pcre2_jit_compile(t->stages[i], PCRE2_JIT_COMPLETE);
    }
    t->limits = pcre2_match_context_create(NULL);
    if (!t->limits) return syl_error(diag, SYL_ERR_out_of_memory, loc, "no memory for the pre-tokenizer");
    /* A run of white space is retried from each of its ends once, so SYL_MAX_TEXT bounds the backtracking of
     * an honest match. */
    pcre2_set_match_limit(t->limits, 2 * SYL_MAX_TEXT);
    pcre2_set_depth_limit(t->limits, 1000);
    pcre2_set_heap_limit(t->limits, 1024); /* KiB */
    return SYL_OK;
}

/* The symbols of a piece are numbered from 0 to less than a number n, rising, maybe with gaps: by their count or by
 * their first byte. */
typedef struct symbol {
    int32_t id;          /* -1: merges with nothing */
    uint32_t prev, next; /* neighbours; n = none */
} symbol;

typedef struct candidate {
    uint64_t key; /* rank, then place: what merges first */
    int32_t left, right, joined;
} candidate;

typedef struct encoder {
    const syl_tokenizer *t;
    syl_diag *diag;
    syl_token_list *out;
    pcre2_match_data *matches[SYL_MAX_SPLIT_STAGES];
    symbol *symbols;
    candidate *heap;         /* a binary heap, lowest key on top */
    size_t n_heap, capacity; /* capacity in symbols; the heap has twice as many places */
} encoder;

static const syl_merge *find_merge(const syl_tokenizer *t, int32_t left, int32_t right) {
    uint32_t low = t->merge_begin[left], high = t->merge_begin[left + 1];
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (t->merges[middle].right < right)
            low = middle + 1;
        else
            high = middle;
    }
    return low < t->merge_begin[left + 1] && t->merges[low].right == right ? &t->merges[low] : NULL;
}

/* Puts the pair that begins at `place` on the heap if it has a merge. */
static void offer(encoder *e, uint32_t place, uint32_t n) {
    uint32_t next = e->symbols[place].next;
    if (next == n || e->symbols[place].id < 0) return;
    const syl_merge *merge = find_merge(e->t, e->symbols[place].id, e->symbols[next].id);
    if (!merge) return;
    candidate c = {(uint64_t)merge->rank << 32 | place, merge->left, merge->right, merge->joined};
    size_t at = e->n_heap++;
    for (size_t up; at && e->heap[up = (at - 1) / 2].key > c.key; at = up) e->heap[at] = e->heap[up];
    e->heap[at] = c;
}

static candidate take(encoder *e) {
    candidate top = e->heap[0], last = e->heap[--e->n_heap];
    size_t at = 0;
    for (size_t down; (down = 2 * at + 1) < e->n_heap; at = down) {
        if (down + 1 < e->n_heap && e->heap[down + 1].key < e->heap[down].key) down++;
        if (e->heap[down].key >= last.key) break;
        e->heap[at] = e->heap[down];
    }
    e->heap[at] = last;
    return top;
}

static void merge_symbols(encoder *e, uint32_t n) {
    symbol *s = e->symbols;
    e->n_heap = 0;
    for (uint32_t i = 0; i < n; i = s[i].next) offer(e, i, n);
    while (e->n_heap) {
        candidate c = take(e);
        uint32_t left = (uint32_t)c.key, right = s[left].next;
        if (s[left].id != c.left || right == n || s[right].id != c.right)
            continue; /* one of the two has merged since */
        s[left].id = c.joined;
        s[left].next = s[right].next;
        if (s[right].next != n) s[s[right].next].prev = left;
        s[right].id = -1;
        if (s[left].prev != n) offer(e, s[left].prev, n);
        offer(e, left, n);
    }
}

static syl_status reserve(encoder *e, size_t n) {
    if (n <= e->capacity) return SYL_OK;
    size_t capacity = n < 256 ? 256 : n + n / 2;
    free(e->symbols);
    free(e->heap);
    e->symbols = malloc(capacity * sizeof *e->symbols);
    e->heap = malloc(2 * capacity * sizeof *e->heap); /* a merge takes one off and puts at most two on */
    e->capacity = e->symbols && e->heap ? capacity : 0;
    if (e->capacity) return SYL_OK;
    return syl_error(e->diag, SYL_ERR_out_of_memory, SYL_NOWHERE,
                     "no memory to tokenize a piece of %zu bytes", n);
}

/* The token of a byte, or what stands for one that has none; -1: nothing does. */
static int32_t byte_token(const syl_tokenizer *t, unsigned char byte) {
    int32_t id = t->byte_tokens[byte];
    return id < 0 && t->unk >= 0 && t->tokens[t->unk].kind != SYL_TOKEN_CONTROL ? t->unk : id;
}

/* From characters: what is no token in the end comes out byte by byte. */
static syl_status encode_characters(encoder *e, const unsigned char *p, size_t size) {
    const syl_tokenizer *t = e->t;
    SYL_TRY(reserve(e, size));
    symbol *s = e->symbols;
    uint32_t n = (uint32_t)size, last = n;
    for (uint32_t at = 0; at < n; at = s[at].next) {
        int length = syl_utf8_next(p + at, n - at);
        uintptr_t id = length > 0 ? (uintptr_t)syl_map_get(&t->chars, p + at, (size_t)length) : 0;
        s[at] = (symbol){(int32_t)id - 1, last, at + (length > 0 ? (uint32_t)length : 1)};
        last = at;
    }
    merge_symbols(e, n);
    for (uint32_t at = 0; at < n; at = s[at].next) {
        if (s[at].id >= 0 && s[at].id < t->n_tokens) {
            SYL_PUSH(e->out->arena, e->out, s[at].id);
            continue;
        }
        for (uint32_t i = at; i < s[at].next; i++) {
            int32_t id = byte_token(t, p[i]);
            if (id < 0)
                e->out->dropped++;
            else
                SYL_PUSH(e->out->arena, e->out, id);
        }
    }
    return SYL_OK;
}

static syl_status encode_piece(encoder *e, const unsigned char *p, size_t size) {
    const syl_tokenizer *t = e->t;
    if (t->spm) return encode_characters(e, p, size);
    if (t->pre->whole_pieces) {
        const syl_token *token = syl_map_get(&t->by_bytes, p, size);
        if (token) {
            SYL_PUSH(e->out->arena, e->out, (int32_t)(token - t->tokens));
            return SYL_OK;
        }
    }
    SYL_TRY(reserve(e, size));
    uint32_t n = 0;
    for (size_t i = 0; i < size; i++) {
        int32_t id = byte_token(t, p[i]);
        if (id < 0)
            e->out->dropped++;
        else
            e->symbols[n++].id = id;
    }
    for (uint32_t i = 0; i < n; i++) {
        e->symbols[i].prev = i ? i - 1 : n;
        e->symbols[i].next = i + 1;
    }
    merge_symbols(e, n);
    for (uint32_t i = 0; i < n; i = e->symbols[i].next) SYL_PUSH(e->out->arena, e->out, e->symbols[i].id);
    return SYL_OK;
}

/* Cuts well-formed UTF-8 by the patterns from `stage` on. */
static syl_status split(encoder *e, int stage, const unsigned char *p, size_t size) {
    if (stage == SYL_MAX_SPLIT_STAGES || !e->t->stages[stage]) return encode_piece(e, p, size);
    for (size_t at = 0; at < size;) {
        int rc = pcre2_match(e->t->stages[stage], p, size, at, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY,
                             e->matches[stage], e->t->limits);
        if (rc == PCRE2_ERROR_NOMATCH) return split(e, stage + 1, p + at, size - at);
        if (rc < 0)
            return syl_error(e->diag, SYL_ERR_tokenizer_split, SYL_NOWHERE,
                             "cutting a text of %zu bytes into pieces stopped at byte %zu (PCRE2 error %d)",
                             size, at, rc);
        const PCRE2_SIZE *match = pcre2_get_ovector_pointer(e->matches[stage]);
        size_t begin = match[0], end = match[1];
        if (begin > at) SYL_TRY(split(e, stage + 1, p + at, begin - at));
        SYL_TRY(split(e, stage + 1, p + begin, end - begin));
        at = end;
    }
    return SYL_OK;
}

/* Well-formed UTF-8, in Unicode's composed form (NFC) if the tokenizer wants that: ASCII is as it is. */
static syl_status encode_utf8(encoder *e, const unsigned char *p, size_t size) {
    size_t ascii = 0;
    while (ascii < size && p[ascii] < 0x80) ascii++;
    if (!e->t->nfc || ascii == size) return split(e, 0, p, size);
    utf8proc_uint8_t *composed = NULL;
    utf8proc_ssize_t n =
        utf8proc_map(p, (utf8proc_ssize_t)size, &composed, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (n < 0)
        return syl_error(e->diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory to normalise %zu bytes",
                         size);
    syl_status status = split(e, 0, composed, (size_t)n);
    free(composed);
    return status;
}

/* Runs of UTF-8 are split, what lies between is merged as bytes. */
static syl_status encode_runs(encoder *e, const unsigned char *p, size_t size) {
    for (size_t at = 0; at < size;) {
        size_t begin = at;
        for (int n; at < size && (n = syl_utf8_next(p + at, size - at)) > 0;) at += (size_t)n;
        SYL_TRY(encode_utf8(e, p + begin, at - begin));
        begin = at;
        for (int n; at < size && (n = syl_utf8_next(p + at, size - at)) <= 0;)
            at = n ? at + (size_t)-n : size;
        if (at > begin) SYL_TRY(encode_piece(e, p + begin, at - begin));
    }
    return SYL_OK;
}

/* Text as SentencePiece sees it: a space in front, or not, and none written as U+2581. */
static syl_status encode_spaced(encoder *e, const unsigned char *p, size_t size, bool first) {
    static const unsigned char mark[] = {0xe2, 0x96, 0x81};
    const syl_tokenizer *t = e->t;
    bool missing = *p != ' ' && (size < sizeof mark || memcmp(p, mark, sizeof mark) != 0);
    bool prefix = t->prefix == SYL_PREFIX_EACH || (t->prefix == SYL_PREFIX_EACH_MISSING && missing) ||
                  (t->prefix == SYL_PREFIX_FIRST_MISSING && missing && first);
    unsigned char *text = malloc(size + 1);
    if (!text)
        return syl_error(e->diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory to tokenize %zu bytes",
                         size);
    size_t n = 0;
    if (prefix) text[n++] = ' ';
    for (size_t i = 0; i < size; i++) {
        bool space = size - i >= sizeof mark && memcmp(p + i, mark, sizeof mark) == 0;
        text[n++] = space ? ' ' : p[i];
        if (space) i += sizeof mark - 1;
    }
    syl_status status = encode_runs(e, text, n);
    free(text);
    return status;
}

/* Text without whole tokens; `first`: none stands before it. */
static syl_status encode_plain(encoder *e, const unsigned char *p, size_t size, bool first) {
    if (size == 0) return SYL_OK;
    return e->t->spm ? encode_spaced(e, p, size, first) : encode_runs(e, p, size);
}

int32_t syl_tokenizer_match_whole(const syl_tokenizer *t, const char *text, size_t size, bool control) {
    unsigned first = (unsigned char)*text;
    for (uint32_t i = t->whole_begin[first]; i < t->whole_begin[first + 1]; i++) {
        const syl_token *token = &t->tokens[t->whole[i]];
        if (token->kind == SYL_TOKEN_CONTROL && !control) continue;
        if (token->size <= size && memcmp(token->bytes, text, token->size) == 0) return t->whole[i];
    }
    return -1;
}

static syl_status encode_text(encoder *e, const char *text, size_t size, int flags) {
    if (size == 0) return SYL_OK; /* the text may then be NULL */
    size_t begin = 0;
    bool first = !(flags & SYL_ENCODE_INSIDE);
    for (size_t at = 0; at < size;) {
        int32_t id = syl_tokenizer_match_whole(e->t, text + at, size - at, flags & SYL_ENCODE_CONTROL);
        if (id < 0) {
            at++;
            continue;
        }
        SYL_TRY(encode_plain(e, (const unsigned char *)text + begin, at - begin, first));
        first = false;
        SYL_PUSH(e->out->arena, e->out, id);
        begin = at += e->t->tokens[id].size;
    }
    return encode_plain(e, (const unsigned char *)text + begin, size - begin, first);
}

syl_status syl_tokenizer_encode(const syl_tokenizer *t, const char *text, size_t size, int flags,
                                syl_diag *diag, syl_token_list *out) {
    if (size > SYL_MAX_TEXT)
        return syl_error(diag, SYL_ERR_tokenizer_text, SYL_NOWHERE,
                         "a text of %zu bytes is longer than the %d that can be tokenized at once", size,
                         SYL_MAX_TEXT);
    encoder e = {.t = t, .diag = diag, .out = out};
    bool ok = true;
    for (int i = 0; i < SYL_MAX_SPLIT_STAGES && t->stages[i]; i++)
        ok &= (e.matches[i] = pcre2_match_data_create(1, NULL)) != NULL;
    syl_status status = SYL_OK;
    if (!ok) status = syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for the pre-tokenizer");
    if (status == SYL_OK && flags & SYL_ENCODE_BOS && t->add_bos && t->bos >= 0)
        SYL_PUSH(out->arena, out, t->bos);
    if (status == SYL_OK) status = encode_text(&e, text, size, flags);
    for (int i = 0; i < SYL_MAX_SPLIT_STAGES; i++) pcre2_match_data_free(e.matches[i]);
    free(e.symbols);
    free(e.heap);
    return status;
}
