// Element-wise steps of training, fused, for the CPU: bf16 activations, f32 residual stream.
//
// Matrix products are PyTorch's. Everything here walks rows of memory once. All arrays are dense
// and row-major; widths (d, F, V, D / 2, key counts) are multiples of 16. Needs AVX-512 with bf16;
// built with -march=native -ffast-math -fopenmp by fused_model.py, which checks the processor
// first.

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using Bf16 = uint16_t;
using Index = int64_t;

constexpr Index kLanes = 16;
constexpr float kNormEpsilon = 1e-5F;

__m512 load(const Bf16* from) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

void store(Bf16* to, __m512 value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value)));
}

float to_float(Bf16 value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

Bf16 to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<Bf16>((bits + 0x8000) >> 16);
}

// e to the x by a polynomial of degree 6 after taking out the power of two; relative error 1e-7.
__m512 exponential(__m512 x) {
  x = _mm512_max_ps(x, _mm512_set1_ps(-87.0F));
  const __m512 power = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504F)),
                                            _MM_FROUND_TO_NEAREST_INT);
  __m512 rest = _mm512_fnmadd_ps(power, _mm512_set1_ps(0.693359375F), x);
  rest = _mm512_fnmadd_ps(power, _mm512_set1_ps(-2.12194440e-4F), rest);
  __m512 sum = _mm512_set1_ps(1.0F / 720);
  for (const float coefficient : {1.0F / 120, 1.0F / 24, 1.0F / 6, 0.5F, 1.0F, 1.0F}) {
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(coefficient));
  }
  return _mm512_scalef_ps(sum, power);
}

__m512 logistic(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0F);
  return _mm512_div_ps(one, _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

// Rotates `from` into `to`, by the angle whose cosine and sine are given, or back.
void rotate(const Bf16* from, Bf16* to, const float* cosine, const float* sine, Index half,
            bool back) {
  for (Index j = 0; j < half; j += kLanes) {
    const __m512 c = _mm512_loadu_ps(cosine + j);
    const __m512 s = back ? _mm512_sub_ps(_mm512_setzero_ps(), _mm512_loadu_ps(sine + j))
                          : _mm512_loadu_ps(sine + j);
    const __m512 x = load(from + j);
    const __m512 y = load(from + half + j);
    store(to + j, _mm512_fmsub_ps(x, c, _mm512_mul_ps(y, s)));
    store(to + half + j, _mm512_fmadd_ps(y, c, _mm512_mul_ps(x, s)));
  }
}

// Probabilities of one row in place: softmax of scale * scores over the first `length` keys, zero
// beyond. The row has `keys` places.
void softmax_row(Bf16* row, Index length, Index keys, float scale) {
  const Index full = length / kLanes * kLanes;
  const Index rest = length - full;
  const auto mask = static_cast<__mmask16>((1U << rest) - 1);
  __m512 largest = _mm512_set1_ps(-1e30F);
  for (Index j = 0; j < full; j += kLanes) {
    largest = _mm512_max_ps(largest, load(row + j));
  }
  if (rest > 0) {
    largest = _mm512_mask_max_ps(largest, mask, largest, load(row + full));
  }
  const __m512 factor = _mm512_set1_ps(scale);
  const __m512 shift = _mm512_set1_ps(_mm512_reduce_max_ps(largest) * scale);
  __m512 sum = _mm512_setzero_ps();
  for (Index j = 0; j < full; j += kLanes) {
    const __m512 weight = exponential(_mm512_fmsub_ps(load(row + j), factor, shift));
    sum = _mm512_add_ps(sum, weight);
    store(row + j, weight);
  }
  if (rest > 0) {
    const __m512 weight =
        _mm512_maskz_mov_ps(mask, exponential(_mm512_fmsub_ps(load(row + full), factor, shift)));
    sum = _mm512_add_ps(sum, weight);
    store(row + full, weight);
  }
  const __m512 inverse = _mm512_set1_ps(1.0F / _mm512_reduce_add_ps(sum));
  const Index used = full + (rest > 0 ? kLanes : 0);
  for (Index j = 0; j < used; j += kLanes) {
    store(row + j, _mm512_mul_ps(load(row + j), inverse));
  }
  std::memset(row + used, 0, sizeof(Bf16) * static_cast<size_t>(keys - used));
}

}  // namespace

extern "C" {

// sum = x + h (h may be null); y = sum * inverse_rms * weight, inverse_rms [N] kept for the way
// back.
void add_norm_forward(Index N, Index d, const float* x, const Bf16* h, const float* weight,
                      float* sum, Bf16* y, float* inverse_rms) {
#pragma omp parallel for
  for (Index i = 0; i < N; ++i) {
    float* row = sum + i * d;
    __m512 squares = _mm512_setzero_ps();
    for (Index j = 0; j < d; j += kLanes) {
      __m512 value = _mm512_loadu_ps(x + i * d + j);
      if (h != nullptr) {
        value = _mm512_add_ps(value, load(h + i * d + j));
      }
      _mm512_storeu_ps(row + j, value);
      squares = _mm512_fmadd_ps(value, value, squares);
    }
    const float mean = _mm512_reduce_add_ps(squares) / static_cast<float>(d);
    inverse_rms[i] = 1.0F / std::sqrt(mean + kNormEpsilon);
    const __m512 factor = _mm512_set1_ps(inverse_rms[i]);
    for (Index j = 0; j < d; j += kLanes) {
      store(y + i * d + j, _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(row + j), factor),
                                         _mm512_loadu_ps(weight + j)));
    }
  }
}

// grad_x += the gradient through the norm, given grad_y; on entry grad_x holds the residual
// stream's. grad_h = grad_x in bf16; grad_weight is added to.
void add_norm_backward(Index N, Index d, const float* sum, const float* weight,
                       const float* inverse_rms, const Bf16* grad_y, float* grad_x, Bf16* grad_h,
                       float* grad_weight) {
#pragma omp parallel
  {
    std::vector<float> own(static_cast<size_t>(d));
#pragma omp for
    for (Index i = 0; i < N; ++i) {
      const Index at = i * d;
      const __m512 factor = _mm512_set1_ps(inverse_rms[i]);
      __m512 dot = _mm512_setzero_ps();
      for (Index j = 0; j < d; j += kLanes) {
        const __m512 value = _mm512_mul_ps(_mm512_loadu_ps(sum + at + j), factor);
        const __m512 product = _mm512_mul_ps(load(grad_y + at + j), value);
        _mm512_storeu_ps(&own[j], _mm512_add_ps(_mm512_loadu_ps(&own[j]), product));
        dot = _mm512_fmadd_ps(product, _mm512_loadu_ps(weight + j), dot);
      }
      const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(dot) / static_cast<float>(d));
      for (Index j = 0; j < d; j += kLanes) {
        const __m512 grad = _mm512_mul_ps(load(grad_y + at + j), _mm512_loadu_ps(weight + j));
        const __m512 value = _mm512_mul_ps(_mm512_loadu_ps(sum + at + j), factor);
        const __m512 total = _mm512_fmadd_ps(_mm512_fnmadd_ps(value, mean, grad), factor,
                                             _mm512_loadu_ps(grad_x + at + j));
        _mm512_storeu_ps(grad_x + at + j, total);
        store(grad_h + at + j, total);
      }
    }
#pragma omp critical
    for (Index j = 0; j < d; ++j) {
      grad_weight[j] += own[j];
    }
  }
}

// qkv [B, T, (G R + 2 G) D] against q [B, G, T, R, D], k and v [B, G, T, D]: forward takes qkv
// apart and rotates q and k; back rotates the other way and puts the gradients together. cosine and
// sine are [B, T, D / 2].
void rotate_and_split(Index B, Index T, Index G, Index R, Index D, Bf16* qkv, Bf16* q, Bf16* k,
                      Bf16* v, const float* cosine, const float* sine, Index back) {
  const Index half = D / 2;
#pragma omp parallel for collapse(2)
  for (Index b = 0; b < B; ++b) {
    for (Index t = 0; t < T; ++t) {
      Bf16* row = qkv + (b * T + t) * (G * R + 2 * G) * D;
      const float* c = cosine + (b * T + t) * half;
      const float* s = sine + (b * T + t) * half;
      for (Index g = 0; g < G; ++g) {
        const Index at = (b * G + g) * T + t;
        for (Index r = 0; r <= R; ++r) {
          Bf16* whole = row + (r < R ? g * R + r : G * R + g) * D;
          Bf16* part = r < R ? q + (at * R + r) * D : k + at * D;
          rotate(back != 0 ? part : whole, back != 0 ? whole : part, c, s, half, back != 0);
        }
        Bf16* whole = row + (G * R + G + g) * D;
        Bf16* part = v + at * D;
        std::memcpy(back != 0 ? whole : part, back != 0 ? part : whole, sizeof(Bf16) * D);
      }
    }
  }
}

// scores [N, rows, R, keys] become probabilities in place. Row t attends to keys 0 .. first + t.
void causal_softmax_forward(Index N, Index rows, Index R, Index keys, Index first, float scale,
                            Bf16* scores) {
#pragma omp parallel for collapse(2) schedule(dynamic, 16)
  for (Index n = 0; n < N; ++n) {
    for (Index t = 0; t < rows; ++t) {
      for (Index r = 0; r < R; ++r) {
        softmax_row(scores + ((n * rows + t) * R + r) * keys, first + t + 1, keys, scale);
      }
    }
  }
}

// gradients (of the probabilities, [N, rows, R, keys]) become those of the scores, in place.
void causal_softmax_backward(Index N, Index rows, Index R, Index keys, Index first, float scale,
                             const Bf16* probabilities, Bf16* gradients) {
#pragma omp parallel for collapse(2) schedule(dynamic, 16)
  for (Index n = 0; n < N; ++n) {
    for (Index t = 0; t < rows; ++t) {
      for (Index r = 0; r < R; ++r) {
        const Index at = ((n * rows + t) * R + r) * keys;
        const Bf16* p = probabilities + at;
        Bf16* grad = gradients + at;
        const Index used = (first + t + kLanes) / kLanes * kLanes;
        __m512 dot = _mm512_setzero_ps();
        for (Index j = 0; j < used; j += kLanes) {
          dot = _mm512_fmadd_ps(load(p + j), load(grad + j), dot);
        }
        const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(dot));
        const __m512 factor = _mm512_set1_ps(scale);
        for (Index j = 0; j < used; j += kLanes) {
          store(grad + j, _mm512_mul_ps(_mm512_mul_ps(load(p + j), factor),
                                        _mm512_sub_ps(load(grad + j), mean)));
        }
        std::memset(grad + used, 0, sizeof(Bf16) * static_cast<size_t>(keys - used));
      }
    }
  }
}

// gate_up [N, 2 F] (gates, then ups) → y [N, F] = silu(gate) * up.
void swiglu_forward(Index N, Index F, const Bf16* gate_up, Bf16* y) {
#pragma omp parallel for
  for (Index i = 0; i < N; ++i) {
    const Bf16* gates = gate_up + 2 * i * F;
    for (Index j = 0; j < F; j += kLanes) {
      const __m512 gate = load(gates + j);
      store(y + i * F + j, _mm512_mul_ps(_mm512_mul_ps(gate, logistic(gate)), load(gates + F + j)));
    }
  }
}

// grad_gate_up [N, 2 F] from grad_y [N, F].
void swiglu_backward(Index N, Index F, const Bf16* gate_up, const Bf16* grad_y,
                     Bf16* grad_gate_up) {
  const __m512 one = _mm512_set1_ps(1.0F);
#pragma omp parallel for
  for (Index i = 0; i < N; ++i) {
    const Bf16* gates = gate_up + 2 * i * F;
    Bf16* grads = grad_gate_up + 2 * i * F;
    for (Index j = 0; j < F; j += kLanes) {
      const __m512 gate = load(gates + j);
      const __m512 grad = load(grad_y + i * F + j);
      const __m512 s = logistic(gate);
      const __m512 slope = _mm512_mul_ps(s, _mm512_fmadd_ps(gate, _mm512_sub_ps(one, s), one));
      store(grads + j, _mm512_mul_ps(_mm512_mul_ps(grad, load(gates + F + j)), slope));
      store(grads + F + j, _mm512_mul_ps(grad, _mm512_mul_ps(gate, s)));
    }
  }
}

// logits [N, V] become weight[i] * (softmax - one at the target) in place. loss [N] is the negative
// log-likelihood without the weight; hit [N] is 1 where the target has the largest logit.
void cross_entropy(Index N, Index V, Bf16* logits, const int32_t* targets, const float* weights,
                   float* loss, uint8_t* hit) {
#pragma omp parallel for
  for (Index i = 0; i < N; ++i) {
    Bf16* row = logits + i * V;
    __m512 largest = _mm512_set1_ps(-1e30F);
    for (Index j = 0; j < V; j += kLanes) {
      largest = _mm512_max_ps(largest, load(row + j));
    }
    const float top = _mm512_reduce_max_ps(largest);
    const __m512 shift = _mm512_set1_ps(top);
    __m512 sums = _mm512_setzero_ps();
    for (Index j = 0; j < V; j += kLanes) {
      sums = _mm512_add_ps(sums, exponential(_mm512_sub_ps(load(row + j), shift)));
    }
    const float sum = _mm512_reduce_add_ps(sums);
    const float target = to_float(row[targets[i]]);
    hit[i] = target >= top ? 1 : 0;
    loss[i] = std::log(sum) + top - target;
    const __m512 factor = _mm512_set1_ps(weights[i] / sum);
    for (Index j = 0; j < V; j += kLanes) {
      store(row + j, _mm512_mul_ps(exponential(_mm512_sub_ps(load(row + j), shift)), factor));
    }
    row[targets[i]] = to_bf16(weights[i] * (std::exp(target - top) / sum - 1.0F));
  }
}

// grad_embedding [V, d] += grad_x [N, d], row by row of the ids. One thread: rows may repeat.
void embedding_backward(Index N, Index d, const int32_t* ids, const float* grad_x,
                        float* grad_embedding) {
  for (Index i = 0; i < N; ++i) {
    float* row = grad_embedding + ids[i] * d;
    for (Index j = 0; j < d; ++j) {
      row[j] += grad_x[i * d + j];
    }
  }
}
}
