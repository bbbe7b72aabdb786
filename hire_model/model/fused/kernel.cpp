// Score pairs of encoded images and captions on a CPU, and compute gradients: stages 6 to 8 over packed data.
// docs/adr/009-compiled-scoring.md has the reasons; library.py compiles and calls this file.

#include <atomic>
#include <new>
#include <numeric>
#include <system_error>
#include <thread>

#include "backward.h"

namespace hire {

// Memory of a thread, kept between calls.
struct Worker {
    Context context;
    Stages stages;
    std::vector<Tile> tiles;            // of the items in `packed`
    std::vector<int64_t> packed, items;

    static Worker& own() {
        thread_local Worker worker;
        worker.packed.clear();
        return worker;
    }
};

// Call run(worker, i) for each i below `count`, in up to `threads` threads. Return false if memory runs out.
template <class Run>
bool for_each(int64_t count, int threads, Run run) {
    std::atomic<int64_t> next{0};
    std::atomic<bool> failed{false};
    auto work = [&] {
        try {
            Worker& worker = Worker::own();
            for (int64_t i; !failed && (i = next++) < count;) run(worker, i);
        } catch (const std::bad_alloc&) {
            failed = true;
        }
    };
    std::vector<std::thread> others;
    try {
        for (int t = 1; t < std::min<int64_t>(threads, count); ++t) others.emplace_back(work);
    } catch (const std::system_error&) {  // go on with the threads that have started
    }
    work();
    for (std::thread& other : others) other.join();
    return !failed;
}

// One pass: the fragments of each item of `lanes` against items of `contexts`.
struct Side {
    const Model& model;
    const Pass& pass;
    const Items &contexts, &lanes;
    const bool lanes_are_words;

    std::vector<Tile> pack_all() const {
        std::vector<int64_t> items(lanes.count);
        std::iota(items.begin(), items.end(), 0);
        std::vector<Tile> tiles;
        Packer(model, lanes, lanes_are_words).pack(items.data(), lanes.count, tiles);
        return tiles;
    }

    // Add to scores[context * context_step + item * item_step] for all contexts and items.
    bool score_matrix(float* scores, int64_t context_step, int64_t item_step, int threads,
                      const Training* training = nullptr) const {
        const std::vector<Tile> tiles = pack_all();
        std::vector<int64_t> place(lanes.count);
        for (int64_t i = 0; i < lanes.count; ++i) place[i] = i * item_step;
        return for_each(contexts.count, threads, [&](Worker& worker, int64_t i) {
            worker.context.prepare(model, pass, contexts, i, lanes_are_words);
            for (const Tile& tile : tiles)
                worker.stages.score(model, pass, lanes_are_words, worker.context, tile, place.data(),
                                    scores + i * context_step, training, i);
        });
    }

    // Write the gradients of scores [contexts][items], with `upstream` of the same shape.
    bool find_gradients(const Training& training, const float* upstream, const Gradients& to, int threads) const {
        const std::vector<Tile> tiles = pack_all();
        const bool align = lanes_are_words && model.alignment, relate = lanes_are_words && model.kinds;
        std::vector<TileTurned> turned;
        for (const Tile& tile : tiles) turned.emplace_back(model, tile, relate);
        const int64_t shares = std::min<int64_t>(threads, contexts.count);
        std::vector<Sums> sums(shares, Sums(model, tiles));
        const bool done = for_each(shares, threads, [&](Worker& worker, int64_t share) {
            Backward backward;
            ContextGradient gradient;
            for (int64_t i = share; i < contexts.count; i += shares) {
                worker.context.prepare(model, pass, contexts, i, lanes_are_words);
                gradient.prepare(model, pass, worker.context, align, relate);
                for (size_t t = 0; t < tiles.size(); ++t)
                    backward.run(model, pass, lanes_are_words, worker.context, gradient, tiles[t], turned[t], training,
                                 i, upstream + i * lanes.count + tiles[t].begin, sums[share].tiles[t],
                                 sums[share].weights);
                gradient.write(model, worker.context, i, contexts.longest, to);
            }
        });
        for (const Sums& each : sums) {
            each.weights.write(model, to);
            for (size_t t = 0; t < tiles.size(); ++t) each.tiles[t].write(model, lanes, tiles[t], to);
        }
        return done;
    }

    // Add to scores[n] for the pairs (context[n], item[n]). All items of a context are scored together.
    bool score_pairs(float* scores, int64_t pairs, const int64_t* context, const int64_t* item, int threads) const {
        std::vector<int64_t> order(pairs), starts;
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return context[a] < context[b]; });
        for (int64_t n = 0; n < pairs; ++n)
            if (!n || context[order[n]] != context[order[n - 1]]) starts.push_back(n);
        starts.push_back(pairs);
        return for_each(int64_t(starts.size()) - 1, threads, [&](Worker& worker, int64_t i) {
            const int64_t* group = order.data() + starts[i];
            worker.items.clear();
            for (int64_t n = starts[i]; n < starts[i + 1]; ++n) worker.items.push_back(item[order[n]]);
            if (worker.items != worker.packed) {
                worker.packed.clear();  // stays empty if memory runs out below
                Packer(model, lanes, lanes_are_words)
                    .pack(worker.items.data(), int64_t(worker.items.size()), worker.tiles);
                worker.packed = worker.items;
            }
            worker.context.prepare(model, pass, contexts, context[group[0]], lanes_are_words);
            for (const Tile& tile : worker.tiles)
                worker.stages.score(model, pass, lanes_are_words, worker.context, tile, group, scores);
        });
    }
};

}  // namespace hire

#pragma GCC visibility push(default)
extern "C" {

// Write the sizes that the caller packs weights for: {MR, NR, padding of the feature size}.
void hire_layout(int32_t* sizes) {
    sizes[0] = hire::MR, sizes[1] = hire::NR, sizes[2] = std::max(hire::W, hire::MR);
}

// Multiply a matrix of weights [size][size] with one panel, `repeats` times; return the multiplications and additions.
// Benchmarks compare the rate of the stages with the rate of this product alone.
double hire_multiply(int32_t size, int64_t repeats) {
    const hire::Floats left(size_t(hire::round_up(size, hire::MR)) * size, 0.5f), right(size_t(size) * hire::NR, 0.5f);
    const int blocks = hire::round_up(size, hire::MR) / hire::MR;
    volatile float result;
    for (int64_t i = 0; i < repeats; ++i)
        hire::multiply<hire::NV>(blocks, size, hire::packed(left.data(), size), right.data(), hire::NR,
                                 [&](int, hire::Vec(&sums)[hire::MR][hire::NV]) { result = sums[0][0][0]; });
    return 2.0 * blocks * hire::MR * hire::NR * size * double(repeats);
}

// Score `pairs` pairs (image[n], text[n]) to scores[n], or, if `pairs` is negative, all images and texts to
// scores[image][text]. Return 0, 1 if memory runs out, or 2 if an index is out of range.
int hire_score(const hire::Model* model, const hire::Items* images, const hire::Items* texts, int64_t pairs,
               const int64_t* image, const int64_t* text, float* scores, int32_t threads) {
    for (int64_t n = 0; n < pairs; ++n)
        if (image[n] < 0 || image[n] >= images->count || text[n] < 0 || text[n] >= texts->count) return 2;
    try {
        std::fill(scores, scores + (pairs < 0 ? images->count * texts->count : pairs), 0.0f);
        const hire::Side words = {*model, model->on_words, *images, *texts, true};
        const hire::Side regions = {*model, model->on_regions, *texts, *images, false};
        bool done = true;
        if (model->on_words.max_weight || model->alignment || model->kinds)
            done = pairs < 0 ? words.score_matrix(scores, texts->count, 1, threads)
                             : words.score_pairs(scores, pairs, image, text, threads);
        if (done && model->on_regions.max_weight)
            done = pairs < 0 ? regions.score_matrix(scores, 1, texts->count, threads)
                             : regions.score_pairs(scores, pairs, text, image, threads);
        return !done;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

// Return the number of panels of all items, for `Training`.
int64_t hire_count_panels(const hire::Model* model, int32_t are_words, const hire::Items* items) {
    const hire::Pass& pass = are_words ? model->on_words : model->on_regions;
    try {
        const std::vector<hire::Tile> tiles = hire::Side{*model, pass, *items, *items, are_words != 0}.pack_all();
        return tiles.empty() ? 0 : tiles.back().first_panel + int64_t(tiles.back().panels.size());
    } catch (const std::bad_alloc&) {
        return -1;
    }
}

// Score all items of `lanes` against each of `contexts`, one pass, to scores[context][item], for training. Return 0, or
// 1 if memory runs out.
int hire_score_pass(const hire::Model* model, int32_t lanes_are_words, const hire::Items* contexts,
                    const hire::Items* lanes, const hire::Training* training, float* scores, int32_t threads) {
    try {
        std::fill(scores, scores + contexts->count * lanes->count, 0.0f);
        const hire::Pass& pass = lanes_are_words ? model->on_words : model->on_regions;
        const hire::Side side = {*model, pass, *contexts, *lanes, lanes_are_words != 0};
        return !side.score_matrix(scores, lanes->count, 1, threads, training);
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

// Write the gradients of `hire_score_pass`, from `upstream`, those of its scores. Return 0, or 1 if memory runs out.
int hire_find_gradients(const hire::Model* model, int32_t lanes_are_words, const hire::Items* contexts,
                        const hire::Items* lanes, const hire::Training* training, const float* upstream,
                        const hire::Gradients* gradients, int32_t threads) {
    try {
        const hire::Pass& pass = lanes_are_words ? model->on_words : model->on_regions;
        const hire::Side side = {*model, pass, *contexts, *lanes, lanes_are_words != 0};
        return !side.find_gradients(*training, upstream, *gradients, threads);
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

// Write to dropped[context][item][n][feature] whether dropout drops this hidden value of fragment n, for tests.
void hire_draw_dropped(const hire::Dropout* dropout, int64_t contexts, int64_t items, int64_t longest, int64_t size,
                       uint8_t* dropped) {
    const int64_t width = hire::round_up(int(size), 4);
    hire::Floats lanes(width * hire::W);
    for (int64_t at = 0; at < contexts * items * longest; ++at, dropped += size) {
        const int64_t pair = at / longest;
        uint32_t keys[hire::W] = {dropout->find_key(pair / items, pair % items, int(at % longest))};
        std::fill(lanes.begin(), lanes.end(), 1.0f);
        dropout->apply<1>(keys, lanes.data(), int(width), hire::W);
        for (int64_t f = 0; f < size; ++f) dropped[f] = lanes[f * hire::W] == 0;
    }
}
}
