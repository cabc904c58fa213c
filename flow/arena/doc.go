// Package arena is the shared memory in which parcels' bytes lie while stages on
// one host work on them.
//
// The conductor makes one per job ([New]); workers inherit its handle and map it
// ([Open]). It is divided into slots of two kinds (see [Pool]). Whoever fills a
// slot takes it with [Arena.Acquire], and passes on a [Claim]: slot, generation,
// length. Whoever reads by a claim asks [Arena.Live] before and after: a
// generation is used once, so a claim whose slot has been freed or filled again
// is not live any more, ever.
//
// A slot being filled belongs to the process that fills it; promoted
// ([Arena.Promote]) it belongs to the message that claims it. [Arena.Reap] frees
// what a dead process was filling, and may be called only once that process has
// been waited for.
//
// Guarantees: any process may be killed at any instruction and the slot words
// stay meaningful, since each is one 64-bit word changed by compare-and-swap.
// Memory is bounded by the shape given to New, and counts only as far as it is
// touched. A full arena makes its fillers wait: that is the back-pressure of the
// whole flow. Not guaranteed: that the bytes of a claim are right; generations
// tell stale from live, and chunk ids tell right from wrong.
//
// The arena also holds [Recent], the job's table of durable chunks.
package arena
