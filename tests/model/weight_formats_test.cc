// Measures what rounding the weights costs: perplexity and KL divergence of each format against
// f32, in windows of 512 tokens. KASCADE_QUALITY_TOKENS sets a larger number of tokens than the
// test needs. The test prints the table of docs/performance.md.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/attention/policy.h"
#include "engine/backend/backend.h"
#include "engine/backend/cpu/panel_kernels.h"
#include "engine/model/transformer.h"
#include "engine/runtime/batch_builder.h"
#include "engine/tokenizer/tokenizer.h"
#include "gtest/gtest.h"
#include "tests/support/shared_data.h"

namespace kascade::testing {
namespace {

constexpr int32_t kWindow = 512;
constexpr int32_t kBlockSize = 16;

struct Text {
  std::filesystem::path model;
  std::vector<std::vector<Token>> windows{};
};

Text open_text(const std::filesystem::path& model, const std::filesystem::path& file) {
  const char* wanted = std::getenv("KASCADE_QUALITY_TOKENS");
  const size_t most = wanted != nullptr ? std::strtoul(wanted, nullptr, 10) : 2048;
  Text text{.model = model};
  const auto tokenizer = open_tokenizer(model);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto tokens = (*tokenizer)->encode(read_file(file), {});
  EXPECT_TRUE(tokens.ok()) << tokens.status();
  for (size_t first = 0; first + kWindow <= std::min(tokens->size(), most); first += kWindow) {
    const auto begin = tokens->begin() + static_cast<std::ptrdiff_t>(first);
    text.windows.emplace_back(begin, begin + kWindow);
  }
  return text;
}

// Log-probabilities of all tokens at every position of every window.
class LogProbabilities {
 public:
  LogProbabilities(const Text& text, WeightFormat format, std::optional<DType> cache_dtype = {}) {
    const auto config = load_config(text.model);
    auto checkpoint = open_checkpoint(text.model, *config);
    const auto backend = open_backend({.name = "cpu",
                                       .weights = format,
                                       .cache = cache_dtype,
                                       .checkpoint_dtype = checkpoint->dtype});
    EXPECT_TRUE(backend.ok()) << backend.status();
    vocab_ = config->vocab;
    constexpr int32_t kBlocks = kWindow / kBlockSize;
    const KvCache cache({config->layers, config->kv_heads, config->head_dim, kBlocks, kBlockSize,
                         (*backend)->precision().cache},
                        **backend);
    Transformer transformer(*config, *std::move(checkpoint), **backend, kWindow);
    packed_bytes_ = transformer.packed_bytes();
    for (const std::vector<Token>& window : text.windows) {
      BlockAllocator blocks(kBlocks, kBlockSize);
      rows_.push_back(run(window, transformer, cache, blocks));
    }
  }
  float at(size_t window, int64_t row, int64_t token) const {
    return rows_[window][static_cast<size_t>(row * vocab_ + token)];
  }
  int64_t vocab() const { return vocab_; }
  int64_t packed_bytes() const { return packed_bytes_; }

 private:
  static std::vector<float> run(const std::vector<Token>& window, Transformer& transformer,
                                const KvCache& cache, BlockAllocator& blocks) {
    Sequence sequence;
    sequence.tokens = window;
    sequence.spec.prefill_end = kWindow;
    sequence.tables.emplace_back(blocks);
    EXPECT_TRUE(sequence.tables[0].grow(kWindow));
    const auto policy = make_dense_policy();
    const Slice slice{.seq = 1, .branch = 0, .begin = 0, .count = kWindow, .first_logit = 0};
    const PlannedSlice planned{&slice, &sequence, policy.get()};
    BuiltBatch built = build_batch({&planned, 1}, kBlockSize);
    PolicyState state;
    const Step step{std::move(built.batch), {{policy.get(), built.tiles[0], &state}}, {}};
    const Tensor hidden = transformer.forward(step, cache);
    Backend& backend = transformer.backend();
    const int64_t vocab = transformer.config().vocab;
    const Buffer logits = backend.allocate(DType::kF32, kWindow, vocab);
    transformer.logits(hidden, logits.view());
    std::vector<float> values(static_cast<size_t>(kWindow * vocab));
    backend.download(logits.view(), std::as_writable_bytes(std::span(values)));
    for (int64_t row = 0; row < kWindow; ++row) normalise(values.data() + row * vocab, vocab);
    return values;
  }
  static void normalise(float* logits, int64_t count) {
    const float largest = *std::max_element(logits, logits + count);
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += std::exp(double{logits[i]} - largest);
    const auto shift = static_cast<float>(largest + std::log(sum));
    for (int64_t i = 0; i < count; ++i) logits[i] -= shift;
  }

  int64_t vocab_ = 0;
  int64_t packed_bytes_ = 0;
  std::vector<std::vector<float>> rows_{};
};

struct Loss {
  double perplexity = 0;
  double degradation_percent = 0;
  double standard_error_percent = 0;
  double mean_kl = 0;
};

Loss compare(const Text& text, const LogProbabilities& exact, const LogProbabilities& rounded) {
  double nll = 0, difference = 0, squares = 0, kl = 0, count = 0;
  for (size_t w = 0; w < text.windows.size(); ++w) {
    for (int64_t row = 0; row + 1 < kWindow; ++row) {
      const Token next = text.windows[w][static_cast<size_t>(row) + 1];
      const double more = double{exact.at(w, row, next)} - rounded.at(w, row, next);
      nll -= rounded.at(w, row, next);
      difference += more;
      squares += more * more;
      count += 1;
      for (int64_t token = 0; token < exact.vocab(); ++token) {
        const double p = exact.at(w, row, token);
        kl += std::exp(p) * (p - rounded.at(w, row, token));
      }
    }
  }
  const double mean = difference / count;
  return {.perplexity = std::exp(nll / count),
          .degradation_percent = 100 * std::expm1(mean),
          .standard_error_percent = 100 * std::sqrt((squares / count - mean * mean) / count),
          .mean_kl = kl / count};
}

void expect_within_bars(const Text& text) {
  ASSERT_FALSE(text.windows.empty());
  const LogProbabilities exact(text, WeightFormat::kF32);
  std::printf("%s, %zu tokens\n", text.model.filename().c_str(), text.windows.size() * kWindow);
  struct Bar {
    WeightFormat format;
    double percent;
    std::optional<DType> cache{};
  };
  for (const Bar& bar :
       {Bar{WeightFormat::kF32, 1e-9}, Bar{WeightFormat::kBF16, 0.1}, Bar{WeightFormat::kInt8, 0.5},
        Bar{WeightFormat::kInt4, 4}, Bar{WeightFormat::kF32, 0.5, DType::kInt8}}) {
    if (bar.format == WeightFormat::kBF16 && cpu::pick_bf16_kernels() == nullptr) continue;
    const LogProbabilities rounded(text, bar.format, bar.cache);
    const Loss loss = compare(text, exact, rounded);
    const std::string cache =
        bar.cache ? ", " + std::string(name_of(*bar.cache)) + " KV cache" : "";
    const std::string name = std::string(name_of(bar.format)) + cache;
    std::printf("| %s | %.2f MB | %.3f | %+.2f ± %.2f %% | %.5f |\n", name.c_str(),
                static_cast<double>(rounded.packed_bytes()) / 1e6, loss.perplexity,
                loss.degradation_percent, loss.standard_error_percent, loss.mean_kl);
    EXPECT_LE(loss.degradation_percent, bar.percent) << name;
    // Formats that are the same model after all would say that nothing was measured.
    if (bar.format != WeightFormat::kF32 || bar.cache) {
      EXPECT_GT(loss.mean_kl, 1e-7) << name;
    }
  }
}

TEST(WeightFormats, DemoModel) {
  expect_within_bars(open_text(demo_model(), demo_model() / "evaluation.txt"));
}

TEST(WeightFormats, TinyStories) {
  KASCADE_NEEDS_DATA("models/tinystories-656k");
  expect_within_bars(open_text(shared_data() / "models/tinystories-656k",
                               shared_data() / "text/tinystories/TinyStories-valid.head.txt"));
}

}  // namespace
}  // namespace kascade::testing
