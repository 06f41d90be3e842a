// The recurrences of recurrent.py and decoder.py, forward and backward, for CPUs: every thread takes some trials of one
// group through all bins, so that threads meet once a scan, what a bin needs stays in the core's cache, and all that
// stands between two products is one pass over it. The same arithmetic in the same order as the plain path, by ATen's
// own vector functions; products of other shapes, so the two agree to rounding.
//
// Axes: G group (member, or member x encoder x direction), T time bin, B trial, H hidden unit, I further input of the
// cell. Tensors are (G, T, B, ·) or (G, B, ·), their last stride is 1. A block is the trials that a thread has at once:
// its size does not depend on the number of threads, hence nor do the numbers.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/cpu/vec/vec.h>
#include <torch/library.h>

#include <cstring>

extern "C" {
void sgemm_(const char*, const char*, const int*, const int*, const int*, const float*, const float*, const int*,
            const float*, const int*, const float*, float*, const int*);
void dgemm_(const char*, const char*, const int*, const int*, const int*, const double*, const double*, const int*,
            const double*, const int*, const double*, double*, const int*);
}

namespace {

using at::Tensor;
using Maybe = std::optional<Tensor>;
constexpr int64_t SMALL = 32, LARGE = 64;  // trials of a block

// c (rows, columns) = a (rows, inner) b (inner, columns) + beta c, all row by row with the given strides.
void product(int64_t rows, int64_t columns, int64_t inner, const float* a, int64_t a_row, const float* b, int64_t b_row,
             float beta, float* c, int64_t c_row) {
  const int m = columns, n = rows, k = inner, lda = b_row, ldb = a_row, ldc = c_row;
  const float one = 1;
  sgemm_("N", "N", &m, &n, &k, &one, b, &lda, a, &ldb, &beta, c, &ldc);
}

void product(int64_t rows, int64_t columns, int64_t inner, const double* a, int64_t a_row, const double* b,
             int64_t b_row, double beta, double* c, int64_t c_row) {
  const int m = columns, n = rows, k = inner, lda = b_row, ldb = a_row, ldc = c_row;
  const double one = 1;
  dgemm_("N", "N", &m, &n, &k, &one, b, &lda, a, &ldb, &beta, c, &ldc);
}

// Rows of a (G, T, B, ·) or (G, B, ·) tensor; of none, where there is no tensor.
template <typename T>
struct View {
  T* data = nullptr;
  int64_t group = 0, bin = 0, trial = 0, width = 0;
  View(const Tensor& x) : data(x.data_ptr<T>()), group(x.stride(0)), width(x.size(-1)) {
    if (x.dim() == 4) bin = x.stride(1);
    trial = x.stride(-2);
  }
  View(const Maybe& x) {
    if (x) *this = View(*x);
  }
  explicit operator bool() const { return data; }
  T* at(int64_t g, int64_t t, int64_t b) const { return data + g * group + t * bin + b * trial; }
};

// Calls f(group, first trial, end) for every block, in parallel.
template <typename F>
void each_block(int64_t groups, int64_t trials, const F& f) {
  const int64_t size = trials > LARGE ? LARGE : SMALL, blocks = (trials + size - 1) / size;
  at::parallel_for(0, groups * blocks, 1, [&](int64_t start, int64_t end) {
    for (int64_t i = start; i < end; ++i) {
      const int64_t first = i % blocks * size;
      f(i / blocks, first, std::min(first + size, trials));
    }
  });
}

// Calls f(offset, count) for every vector of a row.
template <typename T, typename F>
void each_vector(int64_t width, const F& f) {
  constexpr int64_t size = at::vec::Vectorized<T>::size();
  int64_t d = 0;
  for (; d + size <= width; d += size) f(d, size);
  if (d < width) f(d, width - d);
}

template <typename T>
at::vec::Vectorized<T> load(const T* from, int64_t count) {
  using Vec = at::vec::Vectorized<T>;
  return count == Vec::size() ? Vec::loadu(from) : Vec::loadu(from, count);
}

template <typename T>
at::vec::Vectorized<T> lerp(at::vec::Vectorized<T> start, at::vec::Vectorized<T> end, at::vec::Vectorized<T> weight) {
  using Vec = at::vec::Vectorized<T>;
  const Vec step = end - start;
  return Vec::blendv(end - step * (Vec(T(1)) - weight), start + weight * step, weight < Vec(T(0.5)));
}

// One cell of a scan:  z, r = sigmoid(x_zr + [u, h] W_zr);  n = tanh(x_n + [u, r h] W_n);  h' = clip(z h + (1 - z) n)
template <typename T>
struct Cell {
  using Vec = at::vec::Vectorized<T>;
  View<T> x, a, b, zr, n;  // input part (3H); [u, h] and [u, r h] (I+H); gates (2H); candidate (H)
  const Tensor weight;     // forward (G, I+H, 3H); backward (G, 3H, I+H)
  const int64_t hidden, inputs;
  const T clip;

  Cell(const Tensor& x, const Tensor& a, const Tensor& b, const Tensor& zr, const Tensor& n, const Tensor& weight,
       double clip)
      : x(x), a(a), b(b), zr(zr), n(n), weight(weight), hidden(n.size(3)), inputs(a.size(3) - n.size(3)),
        clip(static_cast<T>(clip)) {}

  const T* weights(int64_t g) const { return weight.const_data_ptr<T>() + g * weight.stride(0); }

  // Writes the states after bin t of trials [first, end) into `out`; `a` must hold [u, h].
  void forward(int64_t g, int64_t t, int64_t first, int64_t end, const View<T>& out, int64_t out_bin) const {
    const int64_t rows = end - first, width = inputs + hidden;
    const T* w = weights(g);
    product(rows, 2 * hidden, width, a.at(g, t, first), a.trial, w, 3 * hidden, 0, zr.at(g, t, first), zr.trial);
    for (int64_t r = first; r < end; ++r) {
      const T *x_row = x.at(g, t, r), *a_row = a.at(g, t, r);
      T *zr_row = zr.at(g, t, r), *b_row = b.at(g, t, r);
      each_vector<T>(2 * hidden, [&](int64_t d, int64_t count) {
        const Vec total = load(zr_row + d, count) + load(x_row + d, count);
        (Vec(T(1)) + (Vec(T(0)) - total).exp()).reciprocal().store(zr_row + d, count);
      });
      std::copy(a_row, a_row + inputs, b_row);
      each_vector<T>(hidden, [&](int64_t d, int64_t count) {
        (load(zr_row + hidden + d, count) * load(a_row + inputs + d, count)).store(b_row + inputs + d, count);
      });
    }
    product(rows, hidden, width, b.at(g, t, first), b.trial, w + 2 * hidden, 3 * hidden, 0, n.at(g, t, first), n.trial);
    for (int64_t r = first; r < end; ++r) {
      const T *x_row = x.at(g, t, r) + 2 * hidden, *h_row = a.at(g, t, r) + inputs, *z_row = zr.at(g, t, r);
      T *n_row = n.at(g, t, r), *out_row = out.at(g, out_bin, r);
      each_vector<T>(hidden, [&](int64_t d, int64_t count) {
        const Vec next = (load(n_row + d, count) + load(x_row + d, count)).tanh();
        next.store(n_row + d, count);
        const Vec mixed = lerp<T>(next, load(h_row + d, count), load(z_row + d, count));
        at::vec::clamp(mixed, Vec(-clip), Vec(clip)).store(out_row + d, count);
      });
    }
  }

  // Turns the gradient `dh` of the states after bin t into that of [u, h] before it, in `da`, and writes that of x.
  // `dh` (rows, H) with a stride of I+H may be the end of the rows of `da` (rows, I+H); `db` is room of that size.
  void backward(int64_t g, int64_t t, int64_t first, int64_t end, T* da, T* db, const View<T>& dx) const {
    const int64_t rows = end - first, width = inputs + hidden;
    const T* w = weights(g);
    const Vec one(T(1)), bound(clip), none(T(0));
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t r = first + i;
      const T *h_row = a.at(g, t, r) + inputs, *z_row = zr.at(g, t, r), *n_row = n.at(g, t, r);
      T *dx_row = dx.at(g, t, r), *dh_row = da + i * width + inputs;
      each_vector<T>(hidden, [&](int64_t d, int64_t count) {
        const Vec z = load(z_row + d, count), next = load(n_row + d, count), h = load(h_row + d, count);
        const Vec passes = lerp<T>(next, h, z).abs() <= bound;
        const Vec grad = Vec::blendv(none, load(dh_row + d, count), passes), kept = grad * z;
        kept.store(dh_row + d, count);
        ((grad - kept) * (one - next * next)).store(dx_row + 2 * hidden + d, count);
        (grad * (h - next) * (one - z) * z).store(dx_row + d, count);
      });
    }
    product(rows, width, hidden, dx.at(g, t, first) + 2 * hidden, dx.trial, w + 2 * hidden * width, width, 0, db, width);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t r = first + i;
      const T *h_row = a.at(g, t, r) + inputs, *r_row = zr.at(g, t, r) + hidden, *db_row = db + i * width;
      T *dx_row = dx.at(g, t, r) + hidden, *da_row = da + i * width;
      std::copy(db_row, db_row + inputs, da_row);
      each_vector<T>(hidden, [&](int64_t d, int64_t count) {
        const Vec grad = load(db_row + inputs + d, count), reset = load(r_row + d, count);
        (grad * load(h_row + d, count) * (one - reset) * reset).store(dx_row + d, count);
        (load(da_row + inputs + d, count) + grad * reset).store(da_row + inputs + d, count);
      });
    }
    product(rows, width, 2 * hidden, dx.at(g, t, first), dx.trial, w, width, 1, da, width);
  }
};

// to (rows, width) += from, with the strides of their rows; times a mask where there is one.
template <typename T>
void add_rows(int64_t rows, int64_t width, T* to, int64_t to_row, const T* from, int64_t from_row) {
  for (int64_t i = 0; i < rows; ++i)
    each_vector<T>(width, [&](int64_t d, int64_t count) {
      (load(to + i * to_row + d, count) + load(from + i * from_row + d, count)).store(to + i * to_row + d, count);
    });
}

template <typename T>
void copy_rows(int64_t rows, int64_t width, T* to, int64_t to_row, const T* from, int64_t from_row) {
  for (int64_t i = 0; i < rows; ++i) std::copy(from + i * from_row, from + i * from_row + width, to + i * to_row);
}

template <typename T>
void multiply_rows(int64_t rows, int64_t width, T* to, int64_t to_row, const T* from, int64_t from_row, const T* mask,
                   int64_t mask_row) {
  for (int64_t i = 0; i < rows; ++i)
    each_vector<T>(width, [&](int64_t d, int64_t count) {
      (load(from + i * from_row + d, count) * load(mask + i * mask_row + d, count)).store(to + i * to_row + d, count);
    });
}

// States of a GRU: `states` (G, T+1, B, H) has the first in its bin 0 and gets the others.
void gru_forward(const Tensor& x, const Tensor& states, const Tensor& b, const Tensor& zr, const Tensor& n,
                 const Tensor& weight, double clip) {
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "gru_forward", [&] {
    const Cell<scalar_t> cell(x, states, b, zr, n, weight, clip);
    const View<scalar_t> out(states);
    each_block(x.size(0), x.size(2), [&](int64_t g, int64_t first, int64_t end) {
      for (int64_t t = 0; t < x.size(1); ++t) cell.forward(g, t, first, end, out, t + 1);
    });
  });
}

// Turns `dh`, the gradient of the last states, into that of the first, with `grad` (members, groups of each but the
// first `ends`, T, B, H) of every bin where there is one, and writes the gradient of x.
void gru_backward(const Tensor& x, const Tensor& states, const Tensor& b, const Tensor& zr, const Tensor& n,
                  const Tensor& weight, double clip, const Maybe& grad, int64_t members, int64_t ends,
                  const Tensor& dx, const Tensor& dh) {
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "gru_backward", [&] {
    const Cell<scalar_t> cell(x, states, b, zr, n, weight, clip);
    const View<scalar_t> dxs(dx), carried(dh);
    const int64_t each = x.size(0) / members;
    each_block(x.size(0), x.size(2), [&](int64_t g, int64_t first, int64_t end) {
      const int64_t rows = end - first, hidden = cell.hidden;
      std::vector<scalar_t> room(rows * hidden);
      const bool has_grad = grad && g % each >= ends;
      const View<scalar_t> grads(has_grad ? Maybe(grad->select(0, g / each)) : Maybe());
      scalar_t* own = carried.at(g, 0, first);
      for (int64_t t = x.size(1) - 1; t >= 0; --t) {
        if (has_grad) add_rows(rows, hidden, own, hidden, grads.at(g % each - ends, t, first), grads.trial);
        cell.backward(g, t, first, end, own, room.data(), dxs);
      }
    });
  });
}

// What decoder.py hands over of a controller, its inferred inputs, the generator and the factors.
struct Loop {
  Tensor con_x, con_a, con_b, con_zr, con_n, gen_x, gen_a, gen_b, gen_zr, gen_n;  // tapes of both cells
  Tensor con_states, gen_states, seen, factors, co, stds;  // what the bins come to; seen: the masked generator
  Maybe eps, factor_mask, gen_mask, push;
  bool co_off;
  double clip;
};

Loop loop_of(const std::vector<Tensor>& tapes, const std::vector<Tensor>& outputs, const Maybe& eps,
             const Maybe& factor_mask, const Maybe& gen_mask, const Maybe& push, bool co_off, double clip) {
  return Loop{tapes[0], tapes[1], tapes[2],   tapes[3],   tapes[4],   tapes[5],   tapes[6],   tapes[7],
              tapes[8], tapes[9], outputs[0], outputs[1], outputs[2], outputs[3], outputs[4], outputs[5],
              eps,      factor_mask, gen_mask, push,      co_off,     clip};
}

// Writes the inferred inputs of bin t into `u` and their spreads.
template <typename T>
void sample(const Loop& loop, const View<T>& co, const View<T>& stds, const View<T>& eps, const View<T>& push, int64_t g,
            int64_t t, int64_t r, T* u) {
  using Vec = at::vec::Vectorized<T>;
  const int64_t width = stds.width;
  const T *mean = co.at(g, t, r), *log_var = mean + width;
  T* std = stds.at(g, t, r);
  each_vector<T>(width, [&](int64_t d, int64_t count) {
    const Vec spread = (load(log_var + d, count) * Vec(T(0.5))).exp();
    spread.store(std + d, count);
    Vec value = loop.co_off ? Vec(T(0)) : load(mean + d, count);
    if (eps && !loop.co_off) value = value + spread * load(eps.at(g, t, r) + d, count);
    if (push) value = value + load(push.at(g, 0, t) + d, count);  // (G, T, ·): of every trial
    value.store(u + d, count);
  });
}

void controlled_forward(const std::vector<Tensor>& tapes, const std::vector<Tensor>& outputs, const Maybe& eps,
                        const Maybe& factor_mask, const Maybe& gen_mask, const Maybe& push, bool co_off, double clip,
                        const std::vector<Tensor>& starts, const std::vector<Tensor>& weights) {
  const Loop loop = loop_of(tapes, outputs, eps, factor_mask, gen_mask, push, co_off, clip);
  AT_DISPATCH_FLOATING_TYPES(loop.co.scalar_type(), "controlled_forward", [&] {
    using T = scalar_t;
    const Cell<T> con(loop.con_x, loop.con_a, loop.con_b, loop.con_zr, loop.con_n, weights[0], clip);
    const Cell<T> gen(loop.gen_x, loop.gen_a, loop.gen_b, loop.gen_zr, loop.gen_n, weights[1], clip);
    const View<T> con_states(loop.con_states), gen_states(loop.gen_states), seen(loop.seen), factors(loop.factors);
    const View<T> co(loop.co), stds(loop.stds), draws(eps), f_mask(factor_mask), g_mask(gen_mask), pushes(push);
    const View<T> c0(starts[0]), g0(starts[1]), f0(starts[2]), co_weight(weights[2]), co_bias(weights[3]);
    const View<T> fac_weight(weights[4]);
    each_block(co.group ? loop.co.size(0) : 0, loop.co.size(2), [&](int64_t g, int64_t first, int64_t end) {
      const int64_t rows = end - first;
      for (int64_t t = 0; t < loop.co.size(1); ++t) {
        const View<T>&c = t ? con_states : c0, &f = t ? factors : f0, &h = t ? gen_states : g0;
        const int64_t before = t ? t - 1 : 0;
        T *con_a = con.a.at(g, t, first), *gen_a = gen.a.at(g, t, first);
        copy_rows(rows, con.hidden, con_a + con.inputs, con.a.trial, c.at(g, before, first), c.trial);
        if (f_mask)
          multiply_rows(rows, con.inputs, con_a, con.a.trial, f.at(g, before, first), f.trial, f_mask.at(g, t, first),
                        f_mask.trial);
        else
          copy_rows(rows, con.inputs, con_a, con.a.trial, f.at(g, before, first), f.trial);
        con.forward(g, t, first, end, con_states, t);
        for (int64_t r = first; r < end; ++r)
          std::copy(co_bias.at(g, 0, 0), co_bias.at(g, 0, 0) + co.width, co.at(g, t, r));
        product(rows, co.width, con.hidden, con_states.at(g, t, first), con_states.trial, co_weight.at(g, 0, 0),
                co.width, 1, co.at(g, t, first), co.trial);
        for (int64_t r = first; r < end; ++r) sample<T>(loop, co, stds, draws, pushes, g, t, r, gen.a.at(g, t, r));
        copy_rows(rows, gen.hidden, gen_a + gen.inputs, gen.a.trial, h.at(g, before, first), h.trial);
        gen.forward(g, t, first, end, gen_states, t);
        if (g_mask)
          multiply_rows(rows, gen.hidden, seen.at(g, t, first), seen.trial, gen_states.at(g, t, first),
                        gen_states.trial, g_mask.at(g, t, first), g_mask.trial);
        product(rows, factors.width, gen.hidden, seen.at(g, t, first), seen.trial, fac_weight.at(g, 0, 0),
                factors.width, 0, factors.at(g, t, first), factors.trial);
      }
    });
  });
}

// Adds to the gradients of factors and controller outputs what comes back through the bins, and writes those of both
// cells' inputs and of the starts.
void controlled_backward(const std::vector<Tensor>& tapes, const std::vector<Tensor>& outputs, const Maybe& eps,
                         const Maybe& factor_mask, const Maybe& gen_mask, const Maybe& push, bool co_off, double clip,
                         const std::vector<Tensor>& weights, const Tensor& d_factors, const Tensor& d_co,
                         const std::vector<Tensor>& d_inputs, const std::vector<Tensor>& d_starts) {
  const Loop loop = loop_of(tapes, outputs, eps, factor_mask, gen_mask, push, co_off, clip);
  AT_DISPATCH_FLOATING_TYPES(loop.co.scalar_type(), "controlled_backward", [&] {
    using T = scalar_t;
    using Vec = at::vec::Vectorized<T>;
    const Cell<T> con(loop.con_x, loop.con_a, loop.con_b, loop.con_zr, loop.con_n, weights[0], clip);
    const Cell<T> gen(loop.gen_x, loop.gen_a, loop.gen_b, loop.gen_zr, loop.gen_n, weights[1], clip);
    const View<T> stds(loop.stds), draws(eps), f_mask(factor_mask), g_mask(gen_mask), dfs(d_factors), dcos(d_co);
    const View<T> co_weight(weights[2]), fac_weight(weights[3]), con_dx(d_inputs[0]), gen_dx(d_inputs[1]);
    const View<T> dc0(d_starts[0]), dg0(d_starts[1]), df0(d_starts[2]);
    each_block(loop.co.size(0), loop.co.size(2), [&](int64_t g, int64_t first, int64_t end) {
      const int64_t rows = end - first, con_width = con.inputs + con.hidden, gen_width = gen.inputs + gen.hidden;
      const int64_t co_dim = gen.inputs, fac_dim = con.inputs;
      std::vector<T> dc(rows * con_width), dg(rows * gen_width), room(rows * std::max(con_width, gen_width));
      for (int64_t t = loop.co.size(1) - 1; t >= 0; --t) {
        T *df = dfs.at(g, t, first), *dco = dcos.at(g, t, first);
        T *dc_h = dc.data() + fac_dim, *dg_h = dg.data() + co_dim;
        product(rows, gen.hidden, fac_dim, df, dfs.trial, fac_weight.at(g, 0, 0), gen.hidden, 0, room.data(),
                gen.hidden);
        if (g_mask)
          multiply_rows(rows, gen.hidden, room.data(), gen.hidden, room.data(), gen.hidden, g_mask.at(g, t, first),
                        g_mask.trial);
        add_rows(rows, gen.hidden, dg_h, gen_width, room.data(), gen.hidden);
        gen.backward(g, t, first, end, dg.data(), room.data(), gen_dx);
        for (int64_t i = 0; i < rows && !co_off; ++i)
          each_vector<T>(co_dim, [&](int64_t d, int64_t count) {
            T *mean = dco + i * dcos.trial + d, *log_var = mean + co_dim;
            const Vec du = load(dg.data() + i * gen_width + d, count);
            (load(mean, count) + du).store(mean, count);
            if (!draws) return;
            const Vec noise = load(draws.at(g, t, first + i) + d, count), std = load(stds.at(g, t, first + i) + d, count);
            (load(log_var, count) + Vec(T(0.5)) * (du * std) * noise).store(log_var, count);
          });
        product(rows, con.hidden, 2 * co_dim, dco, dcos.trial, co_weight.at(g, 0, 0), con.hidden, 1, dc_h, con_width);
        con.backward(g, t, first, end, dc.data(), room.data(), con_dx);
        if (f_mask)
          multiply_rows(rows, fac_dim, dc.data(), con_width, dc.data(), con_width, f_mask.at(g, t, first),
                        f_mask.trial);
        if (t)
          add_rows(rows, fac_dim, dfs.at(g, t - 1, first), dfs.trial, dc.data(), con_width);
        else
          copy_rows(rows, fac_dim, df0.at(g, 0, first), df0.trial, dc.data(), con_width);
      }
      copy_rows(rows, con.hidden, dc0.at(g, 0, first), dc0.trial, dc.data() + fac_dim, con_width);
      copy_rows(rows, gen.hidden, dg0.at(g, 0, first), dg0.trial, dg.data() + co_dim, gen_width);
    });
  });
}

// SplitMix64, as in streams.py.
uint64_t mixed(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EB;
  return value ^ (value >> 31);
}

// Fills `out` (M, n): 0 where 16 bits of the member's stream are below its threshold, else what it has in `kept`.
void mask(const Tensor& keys, const Tensor& thresholds, const Tensor& kept, const Tensor& out) {
  constexpr int64_t DRAWS = 256, SIZE = 4 * DRAWS;  // of a block
  AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "mask", [&] {
    const int64_t* key = keys.const_data_ptr<int64_t>();
    const int32_t* threshold = thresholds.const_data_ptr<int32_t>();
    const scalar_t* value = kept.const_data_ptr<scalar_t>();
    const int64_t count = out.size(1), blocks = (count + SIZE - 1) / SIZE;
    at::parallel_for(0, out.size(0) * blocks, 16, [&](int64_t start, int64_t end) {
      uint64_t draws[DRAWS];
      int16_t bits[SIZE];
      for (int64_t i = start; i < end; ++i) {
        const int64_t m = i / blocks, first = i % blocks * SIZE;
        const uint64_t at = key[m] + (first / 4 + 1) * 0x9E3779B97F4A7C15;
        for (int64_t d = 0; d < DRAWS; ++d) draws[d] = mixed(at + d * 0x9E3779B97F4A7C15);
        std::memcpy(bits, draws, sizeof(bits));
        scalar_t* to = out.mutable_data_ptr<scalar_t>() + m * count + first;
        const int64_t size = std::min(SIZE, count - first);
        for (int64_t d = 0; d < size; ++d) to[d] = bits[d] >= threshold[m] ? value[m] : scalar_t(0);
      }
    });
  });
}

}  // namespace

TORCH_LIBRARY(band, library) {
  library.def("mask", mask);
  library.def("gru_forward", gru_forward);
  library.def("gru_backward", gru_backward);
  library.def("controlled_forward", controlled_forward);
  library.def("controlled_backward", controlled_backward);
}
