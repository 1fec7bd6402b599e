// LogitStatistics of logits in host memory.
#ifndef KASCADE_ENGINE_BACKEND_HOST_HOST_LOGIT_STATISTICS_H_
#define KASCADE_ENGINE_BACKEND_HOST_HOST_LOGIT_STATISTICS_H_

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "engine/backend/logit_statistics.h"

namespace kascade {

class HostLogitStatistics final : public LogitStatistics {
 public:
  void start(std::span<const Token> targets, int32_t candidates) override;
  void add(Tensor logits, Token first_token) override;
  void add_difference(Tensor logits, Tensor other) override;
  void add_ranks(Tensor logits, Token first_token) override;
  std::vector<RowStatistics> read() override;

 private:
  // Sums over the vocabulary tiles seen so far, relative to the largest logit seen so far.
  struct Row {
    Token target_token = 0;
    double sum = 0;  // Σ exp(logit − max)
    float max = -std::numeric_limits<float>::infinity();
    // Σ exp(logit − difference_max) · (logit − other logit)
    double differences = 0;
    float difference_max = -std::numeric_limits<float>::infinity();
    RowStatistics result{};
  };

  void add_row(std::span<const float> logits, Token first_token, Row& row) const;

  int32_t candidates_ = 0;
  std::vector<Row> rows_;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_BACKEND_HOST_HOST_LOGIT_STATISTICS_H_
